-- Let a version's training be cleared as any other job is; the version stays in the list.
--
-- KEYS
--   model       rw  challenger, before, nonce, released:NUMBER
--   versions    r
--   trail       w
--   registered  rw
--   clearing    w
--   request     r
--   job         r
--   hooks       r
--   outbox      w
-- ARGV
--   name
--   number
--   nonce       tells a call sent twice from two
--   by
--   reason
--   evidence    JSON

local found, refusal = model(A.name)
refusal = refusal or unknown_version(A.name, found, A.number)
if refusal then return refusal end
local label = A.name .. '@' .. A.number
if found.nonce == A.nonce or found['released:' .. A.number] then return 1 end
if found.champion == A.number then
  return redis.error_reply('NOTALLOWED ' .. label .. ' is the champion: promote another before you release it')
end
local before = {}
for _, each in ipairs(found.before) do
  if each ~= A.number then before[#before + 1] = each end
end
redis.call('HSET', K.model .. A.name, 'released:' .. A.number, 1, 'nonce', A.nonce,
  'challenger', found.challenger ~= A.number and found.challenger or '',
  'before', #before > 0 and cjson.encode(before) or '[]')
local id = cjson.decode(redis.call('LINDEX', K.versions .. A.name, tonumber(A.number) - 1)).job
local others = {}
for each in string.gmatch(redis.call('HGET', K.registered, id) or '', '%S+@%d+') do
  if each ~= label then others[#others + 1] = each end
end
if #others > 0 then
  redis.call('HSET', K.registered, id, table.concat(others, ' and '))
else
  redis.call('HDEL', K.registered, id)
  local request, job = both(id)
  if request then redis.call('ZADD', K.clearing, tonumber(job.ended) + tonumber(request.keep), id) end
end
tell(A.name, 'released', A.number, found.champion)
return 1
