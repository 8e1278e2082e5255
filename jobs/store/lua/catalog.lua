-- The catalogue that was published last for a queue.
--
-- KEYS
--   offers      r
--   catalogs    r
-- ARGV
--   queue
-- Returns its JSON, or false.

local newest, digest = -1, nil
for _, json in ipairs(redis.call('HVALS', K.offers)) do
  local offer = cjson.decode(json)
  for _, queue in ipairs(offer.queues) do
    if queue == A.queue and offer.time > newest then newest, digest = offer.time, offer.digest end
  end
end
return digest and redis.call('HGET', K.catalogs, digest)
