-- Forget an ended job's request, which makes it unknown; `clear` takes away what workers wrote.
--
-- KEYS
--   request     w
--   requests    w
--   dedupe      w
--   clearing    rw  due at once
--   job         r
--   registered  r
-- ARGV
--   id

local request, job = both(A.id)
if not request and redis.call('ZSCORE', K.clearing, A.id) == '0' then return 'removed' end  -- said twice
if not request then return redis.error_reply('UNKNOWN no job has the id ' .. A.id) end
local state = standing(request, job)
if not ENDED[state] then
  return redis.error_reply('NOTALLOWED job ' .. A.id .. ' is ' .. state .. ': cancel it before you remove it')
end
local versions = redis.call('HGET', K.registered, A.id)
if versions then
  return redis.error_reply('NOTALLOWED job ' .. A.id .. ' is ' .. versions .. ', and versions of models are kept')
end
local key = redis.call('HGET', K.request .. A.id, 'key')
if key ~= '' then redis.call('HDEL', K.dedupe, key) end
redis.call('DEL', K.request .. A.id)
redis.call('ZREM', K.requests, A.id)
redis.call('ZADD', K.clearing, 0, A.id)
return 'removed'
