-- Write the record of a sweep, if it still is what was seen.
--
-- KEYS
--   sweeps      rw
--   sweeping    w
-- ARGV
--   id
--   before      JSON that was seen; empty for none
--   after       JSON
--   keep        milliseconds until it is forgotten; empty while it goes on
-- Returns 1, or 0 where it is another by now.

local found = redis.call('HGET', K.sweeps, A.id) or ''
if found == A.after then return 1 end  -- a call that was sent again
if found ~= A.before then return 0 end
redis.call('HSET', K.sweeps, A.id, A.after)
redis.call('ZADD', K.sweeping, A.keep == '' and '+inf' or now() + tonumber(A.keep), A.id)
return 1
