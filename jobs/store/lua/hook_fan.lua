-- Turn words that were left into one delivery for each who wants to be told, and forget what was on its
-- way to those who were removed.
--
-- KEYS
--   hooks       r
--   outbox      rw
--   notified    rw
--   deliveries  w
--   retries     w
--   told        w
-- ARGV
--   limit       at most so many words
-- Returns how many there were.

local hooks, time = {}, now()
for id, text in pairs(hash(K.hooks)) do hooks[id] = cjson.decode(text) end
for _, id in ipairs(redis.call('SMEMBERS', K.notified)) do
  if not hooks[id] then
    redis.call('UNLINK', K.deliveries .. id, K.retries .. id)
    redis.call('HDEL', K.told, id)
    redis.call('SREM', K.notified, id)
  end
end
local entries = redis.call('XRANGE', K.outbox, '-', '+', 'COUNT', A.limit)
for _, entry in ipairs(entries) do
  local text = entry[2][2]
  local event = cjson.decode(text)
  for id, hook in pairs(hooks) do
    local wants = event.hook == id
    for _, kind in ipairs(hook.on) do wants = wants or kind == event.type end
    if wants then
      local delivery = 'msg_' .. string.gsub(entry[1], '-', '_') .. '_' .. id
      redis.call('HSET', K.deliveries .. id, delivery, cjson.encode({event = text, tries = 0}))
      redis.call('ZADD', K.retries .. id, time, delivery)
      redis.call('SADD', K.notified, id)
    end
  end
  redis.call('XDEL', K.outbox, entry[1])
end
return #entries
