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

redis.call('HSETNX', K.catalogs, A.digest, A.catalog)  -- said often; the log of Redis need not grow
local offer = {queues = cjson.decode(A.queues), digest = A.digest, time = now()}
redis.call('HSET', K.offers, A.id, cjson.encode(offer))
return 1
