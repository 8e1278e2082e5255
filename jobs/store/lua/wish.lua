-- A person wishes that a job be cancelled, set aside or gone on with.
--
-- KEYS
--   request     w   withdrawn, held
--   pending     w
--   queues      w
--   blocked     w
--   clearing    w   a job that no worker holds ends at once
--   job         r
-- ARGV
--   id
--   wish        cancel, pause or resume
-- Returns the state.

local request, job = both(A.id)
if not request then return redis.error_reply('UNKNOWN no job has the id ' .. A.id) end
local state, time, key = standing(request, job), now(), K.request .. A.id

local function refuse(what)
  return redis.error_reply('NOTALLOWED job ' .. A.id .. ' is ' .. state .. ': ' .. what)
end

if A.wish == 'cancel' then
  if state == 'cancelled' then return state end
  if ENDED[state] then return refuse('there is nothing left to cancel') end
  redis.call('HSET', key, 'withdrawn', time)
  if state == 'running' then return state end
  redis.call('ZREM', K.pending .. request.queue, A.id)
  redis.call('SREM', K.blocked, A.id)
  redis.call('HDEL', key, 'waits')
  redis.call('ZADD', K.clearing, time + tonumber(request.keep), A.id)
  return 'cancelled'
end

if A.wish == 'pause' then
  if state == 'paused' then return state end
  if state ~= 'queued' and state ~= 'running' then return refuse('only a queued or a running job can be paused') end
  redis.call('HSET', key, 'held', time)
  redis.call('ZREM', K.pending .. request.queue, A.id)
  return state == 'running' and state or 'paused'
end

if not request.held then return refuse('only a paused job can be resumed') end
redis.call('HDEL', key, 'held')
if state == 'paused' then enqueue(A.id, request) end
return state == 'paused' and 'queued' or state
