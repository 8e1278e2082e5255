-- An attempt goes on: its lease runs from now, and it hears what was wished.
--
-- KEYS
--   request     r
--   job         r
--   leases      w
-- ARGV
--   id
--   attempt
--   ttl         milliseconds
-- Returns the wish, or an empty string.

local request, job = fence(A.id, A.attempt)
if not request then return job end
despite_full_memory(K.leases)
redis.call('ZADD', K.leases, now() + tonumber(A.ttl), A.id)
return wish(request, job)
