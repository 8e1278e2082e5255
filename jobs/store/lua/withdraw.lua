-- A worker takes its leave; its catalogue goes with the last worker that offers it.
--
-- KEYS
--   workers     w
--   alive       w
--   offers      rw
--   catalogs    w
--   takes       w
-- ARGV
--   id

redis.call('HDEL', K.workers, A.id)
redis.call('ZREM', K.alive, A.id)
redis.call('HDEL', K.takes, A.id)
local offer = redis.call('HGET', K.offers, A.id)
if not offer then return 0 end
redis.call('HDEL', K.offers, A.id)
local digest = cjson.decode(offer).digest
for _, other in ipairs(redis.call('HVALS', K.offers)) do
  if cjson.decode(other).digest == digest then return 1 end
end
redis.call('HDEL', K.catalogs, digest)
return 1
