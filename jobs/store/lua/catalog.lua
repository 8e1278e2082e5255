-- The catalogue that was published last for a queue.
--
-- KEYS
--   offers      r
--   catalogs    r
-- ARGV
--   queue
-- Returns its JSON, or false.

local digest = newest_catalog(A.queue)
return digest and redis.call('HGET', K.catalogs, digest)
