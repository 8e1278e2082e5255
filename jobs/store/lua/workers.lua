-- The workers that are alive.
--
-- KEYS
--   workers     r
--   alive       r
-- ARGV
-- Returns for each the time of its last word and what it said.

return living(whole(now()))
