-- A worker says that it lives, and what it has.
--
-- KEYS
--   workers     w
--   alive       w
-- ARGV
--   id
--   worker      JSON of jobs.workers.Worker
--   ttl         milliseconds

local time = now()
despite_full_memory(K.workers)
redis.call('HSET', K.workers, A.id, whole(time) .. ' ' .. A.worker)
redis.call('ZADD', K.alive, time + tonumber(A.ttl), A.id)
return 1
