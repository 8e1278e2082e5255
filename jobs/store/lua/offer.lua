-- A worker says what it can build.
--
-- KEYS
--   offers      w
--   catalogs    w
-- ARGV
--   id          of the worker
--   queues      JSON list
--   digest
--   catalog     JSON

redis.call('HSET', K.catalogs, A.digest, A.catalog)
local offer = {queues = cjson.decode(A.queues), digest = A.digest, time = now()}
redis.call('HSET', K.offers, A.id, cjson.encode(offer))
return 1
