-- Give a model its next version: a training that has succeeded, which is kept from now on.
--
-- KEYS
--   models      w
--   model       rw  versions (their count), job:ID, champion, challenger, before, nonce
--   versions    w
--   trail       w
--   registered  rw
--   request     r
--   job         r   state, checkpoint, best, store
--   hooks       r
--   outbox      w
-- ARGV
--   name
--   id          the job
--   parent      number of the version that it was trained from, or empty
--   about       JSON: what else is kept of the version
--   by
--   reason
--   evidence    JSON
-- Returns the number; of a job that is a version of this model already, that number.

local key = K.model .. A.name
local known = redis.call('HGET', key, 'job:' .. A.id)
if known then return tonumber(known) end
local request, job = both(A.id)
if not request then return redis.error_reply('UNKNOWN no job has the id ' .. A.id) end
local state = standing(request, job)
local checkpoint = job.best or job.checkpoint
if request.kind ~= 'train' or state ~= 'succeeded' or not checkpoint then
  return redis.error_reply('NOTALLOWED job ' .. A.id .. ' (' .. request.kind .. ', ' .. state ..
    ') cannot be a version: only a training that has succeeded and left a model can')
end
if A.parent ~= '' then
  local found, refusal = model(A.name)
  refusal = refusal or unknown_version(A.name, found, A.parent)
  if refusal then return refusal end
end

local time, number = now(), redis.call('HINCRBY', key, 'versions', 1)
if number == 1 then
  redis.call('ZADD', K.models, time, A.name)
  redis.call('HSET', key, 'champion', '', 'before', '[]', 'nonce', '')
end
redis.call('HSET', key, 'job:' .. A.id, number, 'challenger', number)
redis.call('RPUSH', K.versions .. A.name, cjson.encode({
  job = A.id, checkpoint = checkpoint, store = job.store or '', created = whole(time),
  parent = A.parent, about = A.about}))
local others = redis.call('HGET', K.registered, A.id)
redis.call('HSET', K.registered, A.id, (others and others .. ' and ' or '') .. A.name .. '@' .. number)
tell(A.name, 'registered', whole(number), redis.call('HGET', key, 'champion'))
return number
