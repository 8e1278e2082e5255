-- Ask again for a job that failed or was cancelled: a new round, from its newest checkpoint. One that
-- waits before a retry waits no longer, in the round that it is in.
--
-- KEYS
--   request     w   round, heard
--   pending     w
--   queues      w
--   delayed     w
--   waiting     w   whether it must wait still is looked at by the sweep; who has run need not
--   clearing    w
--   sequence    rw  its age begins anew
--   job         r
-- ARGV
--   id
--   nonce       tells a call sent twice from two

local request, job = both(A.id)
if not request then return redis.error_reply('UNKNOWN no job has the id ' .. A.id) end
local state, key = standing(request, job), K.request .. A.id
if redis.call('HGET', key, 'heard') == A.nonce then return state end
if state == 'queued' and redis.call('ZREM', K.delayed, A.id) == 1 then
  redis.call('HSET', key, 'heard', A.nonce)
  enqueue(A.id, request)
  return state
end
if state ~= 'failed' and state ~= 'cancelled' then
  return redis.error_reply('NOTALLOWED job ' .. A.id .. ' is ' .. state .. ': only a failed or a cancelled job can be tried again')
end
local priority = tonumber(redis.call('HGET', key, 'priority'))
request.rank = whole(redis.call('INCR', K.sequence) - priority * 1e12)
redis.call('HINCRBY', key, 'round', 1)
redis.call('HSET', key, 'rank', request.rank, 'heard', A.nonce)
redis.call('HDEL', key, 'withdrawn', 'held', 'waits')
redis.call('ZREM', K.clearing, A.id)
if request.after == '[]' or job.attempt then
  enqueue(A.id, request)
else
  redis.call('HSET', key, 'waits', 1)
  redis.call('HSET', K.waiting, A.id, request.after)
end
return 'queued'
