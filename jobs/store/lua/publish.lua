-- A checkpoint counts from now on.
--
-- KEYS
--   request     r
--   job         w   checkpoint, previous, best
-- ARGV
--   id
--   attempt
--   checkpoint  JSON
--   best        1 or 0

local request, job = fence(A.id, A.attempt)
if not request then return job end
despite_full_memory(K.job .. A.id)
local step = cjson.decode(A.checkpoint).step
local newest = job.checkpoint and cjson.decode(job.checkpoint).step or -1
if step > newest and job.checkpoint then redis.call('HSET', K.job .. A.id, 'previous', job.checkpoint) end
if step >= newest then redis.call('HSET', K.job .. A.id, 'checkpoint', A.checkpoint) end
if step > newest then redis.call('HSET', K.job .. A.id, 'free', 0) end
if A.best == '1' then redis.call('HSET', K.job .. A.id, 'best', A.checkpoint) end
return 1
