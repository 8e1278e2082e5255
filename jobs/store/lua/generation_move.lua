-- A generation moves on, if it still stands where the caller saw it. Of each schedule the newest are kept.
--
-- KEYS
--   generation  rw
--   generations rw
--   open        w
-- ARGV
--   schedule
--   generation
--   step        the move that the caller saw last
--   stage
--   outcome
--   reason
--   body        JSON: further fields
--   keep        so many are remembered
-- Returns 1, or 0 where another was faster.

local key, index = K.generation .. A.generation, K.generations .. A.schedule
if redis.call('HGET', key, 'step') ~= A.step then return 0 end
redis.call('HINCRBY', key, 'step', 1)
redis.call('HSET', key, 'stage', A.stage, 'outcome', A.outcome, 'reason', A.reason, 'body', A.body)
if A.stage ~= 'decided' then return 1 end
redis.call('HSET', key, 'ended', whole(now()))
redis.call('ZREM', K.open, A.generation)
for _, old in ipairs(redis.call('ZRANGE', index, 0, -1 - tonumber(A.keep))) do
  if redis.call('HGET', K.generation .. old, 'stage') == 'decided' then
    redis.call('ZREM', index, old)
    redis.call('UNLINK', K.generation .. old)
  end
end
return 1
