-- A person wishes that a job be cancelled, set aside or gone on with.
--
-- KEYS
--   request     w   withdrawn, held, heard
--   pending     w
--   queues      w
--   delayed     w
--   waiting     w
--   clearing    w   a job that no worker holds ends at once
--   job         r
--   hooks       r
--   outbox      w
-- ARGV
--   id
--   wish        cancel, pause or resume
--   nonce       tells a call sent twice from two
-- Returns the state.

local request, job = both(A.id)
if not request then return redis.error_reply('UNKNOWN no job has the id ' .. A.id) end
local state, time, key = standing(request, job), now(), K.request .. A.id
if redis.call('HGET', key, 'heard') == A.nonce then return state end

local function refuse(what)
  return redis.error_reply('NOTALLOWED job ' .. A.id .. ' is ' .. state .. ': ' .. what)
end

despite_full_memory(K.clearing)
if A.wish == 'cancel' then
  if state == 'cancelled' then return state end
  if ENDED[state] then return refuse('there is nothing left to cancel') end
  redis.call('HSET', key, 'withdrawn', time, 'heard', A.nonce)
  if state == 'running' then return state end
  redis.call('ZREM', K.pending .. request.queue, A.id)
  redis.call('ZREM', K.delayed, A.id)
  redis.call('HDEL', K.waiting, A.id)
  redis.call('HDEL', key, 'waits')
  redis.call('ZADD', K.clearing, time + tonumber(request.keep), A.id)
  leave_word('cancelled', {job = A.id, kind = request.kind, reason = 'cancelled', message = ''})
  return 'cancelled'
end

if A.wish == 'pause' then
  if state == 'paused' then return state end
  if state ~= 'queued' and state ~= 'running' then return refuse('only a queued or a running job can be paused') end
  redis.call('HSET', key, 'held', time, 'heard', A.nonce)
  redis.call('ZREM', K.pending .. request.queue, A.id)
  redis.call('ZREM', K.delayed, A.id)
  return state == 'running' and state or 'paused'
end

if not request.held or ENDED[state] then return refuse('only a paused job can be resumed') end
redis.call('HDEL', key, 'held')
redis.call('HSET', key, 'heard', A.nonce)
if state == 'paused' then enqueue(A.id, request) end
return state == 'paused' and 'queued' or state
