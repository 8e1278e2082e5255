-- Say what became of one try of a delivery; a later try has the word.
--
-- KEYS
--   deliveries  rw
--   retries     w
--   told        w
--   undelivered w
-- ARGV
--   id
--   hook
--   tries       the try that this is about
--   error       empty where it was delivered
--   again       milliseconds until the next try; empty for none
--   keep        so many that were given up are remembered
-- Returns 1, or 0 where another try has begun.

local deliveries, retries = K.deliveries .. A.hook, K.retries .. A.hook
local text = redis.call('HGET', deliveries, A.id)
local delivery = text and cjson.decode(text)
if not delivery or whole(delivery.tries) ~= A.tries then return 0 end
local time = now()
redis.call('HSET', K.told, A.hook, cjson.encode({time = whole(time), error = A.error, delivery = A.id}))
if A.error ~= '' and A.again ~= '' then
  redis.call('ZADD', retries, time + tonumber(A.again), A.id)
  return 1
end
redis.call('ZREM', retries, A.id)
redis.call('HDEL', deliveries, A.id)
if A.error ~= '' then
  redis.call('RPUSH', K.undelivered, cjson.encode({id = A.id, hook = A.hook, time = whole(time),
    error = A.error, event = delivery.event}))
  redis.call('LTRIM', K.undelivered, -tonumber(A.keep), -1)
end
return 1
