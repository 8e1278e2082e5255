-- Ask again for a job that failed or was cancelled: a new round, from its newest checkpoint.
--
-- KEYS
--   request     w   round
--   pending     w
--   queues      w
--   blocked     w   whether it must wait still is looked at by the sweep; who has run need not
--   clearing    w
--   sequence    rw  its age begins anew
--   job         r
-- ARGV
--   id

local request, job = both(A.id)
if not request then return redis.error_reply('UNKNOWN no job has the id ' .. A.id) end
local state, key = standing(request, job), K.request .. A.id
if state ~= 'failed' and state ~= 'cancelled' then
  return redis.error_reply('NOTALLOWED job ' .. A.id .. ' is ' .. state .. ': only a failed or a cancelled job can be tried again')
end
local priority = tonumber(redis.call('HGET', key, 'priority'))
request.rank = whole(redis.call('INCR', K.sequence) - priority * 1e12)
redis.call('HINCRBY', key, 'round', 1)
redis.call('HSET', key, 'rank', request.rank)
redis.call('HDEL', key, 'withdrawn', 'held', 'waits')
redis.call('ZREM', K.clearing, A.id)
if request.after == '[]' or job.attempt then
  enqueue(A.id, request)
else
  redis.call('HSET', key, 'waits', 1)
  redis.call('SADD', K.blocked, A.id)
end
return 'queued'
