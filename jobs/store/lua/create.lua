-- Put a request into the queue, once for each idempotency key.
--
-- KEYS
--   request     w   what was asked for
--   requests    w   index by time
--   pending     w   where it waits for a worker
--   queues      w
--   waiting     w   where it waits for other jobs
--   dedupe      rw
--   sequence    rw
--   job         r   state of the jobs it waits for
-- ARGV
--   id
--   nonce       tells a call sent twice from two jobs with one id
--   key         idempotency key, or empty
--   priority
--   after       JSON list of ids
--   queue
--   fields      JSON list: further fields of the request and their values
--   spec
-- Returns the id of the job of this key; an empty string if the id is taken.

if A.key ~= '' then
  local known = redis.call('HGET', K.dedupe, A.key)
  if known then return known end
end
local nonce = redis.call('HGET', K.request .. A.id, 'nonce')
if nonce then return nonce == A.nonce and A.id or '' end

local blocked = false
for _, parent in ipairs(cjson.decode(A.after)) do
  local request, job = both(parent)
  if not request then return redis.error_reply('UNKNOWN no job has the id ' .. parent .. ', which this one would wait for') end
  local state = standing(request, job)
  if ENDED[state] and state ~= 'succeeded' then
    return redis.error_reply('REFUSED job ' .. parent .. ', which this one would wait for, ended as ' .. state)
  end
  blocked = blocked or state ~= 'succeeded'
end

local time = now()
local request = {queue = A.queue, rank = whole(redis.call('INCR', K.sequence) - tonumber(A.priority) * 1e12)}
redis.call('HSET', K.request .. A.id, 'spec', A.spec, 'nonce', A.nonce, 'key', A.key,
  'queue', A.queue, 'priority', A.priority, 'rank', request.rank, 'after', A.after, 'round', 1,
  'submitted', time, unpack(cjson.decode(A.fields)))
redis.call('ZADD', K.requests, time, A.id)
if A.key ~= '' then redis.call('HSET', K.dedupe, A.key, A.id) end
if blocked then
  redis.call('HSET', K.request .. A.id, 'waits', 1)
  redis.call('HSET', K.waiting, A.id, A.after)
else
  enqueue(A.id, request)
end
return A.id
