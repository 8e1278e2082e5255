-- Write the record of a sweep, if it still is what was seen.
--
-- KEYS
--   sweeps      rw
-- ARGV
--   id
--   before      JSON that was seen; empty for none
--   after       JSON
-- Returns 1, or 0 where it is another by now.

local found = redis.call('HGET', K.sweeps, A.id) or ''
if found == A.after then return 1 end  -- a call that was sent again
if found ~= A.before then return 0 end
redis.call('HSET', K.sweeps, A.id, A.after)
return 1
