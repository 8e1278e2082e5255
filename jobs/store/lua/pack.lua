-- Move the oldest points of the stream into a compressed chunk.
--
-- KEYS
--   request     r
--   job         r
--   series      rw  packed
--   points      w
--   chunks      w
-- ARGV
--   id
--   attempt
--   before      last cursor in chunks, as the worker knew it
--   last        last cursor of this chunk
--   chunk       compressed text

local request, refusal = fence(A.id, A.attempt)
if not request then return refusal end
local packed = redis.call('HGET', K.series .. A.id, 'packed') or '0'
if packed ~= A.before then return 0 end
redis.call('XADD', K.chunks .. A.id, A.last .. '-0', 'chunk', A.chunk)
redis.call('XTRIM', K.points .. A.id, 'MINID', A.last .. '-1')
redis.call('HSET', K.series .. A.id, 'packed', A.last)
return 1
