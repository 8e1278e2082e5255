-- Take the delivery that has been due for longest; another worker may take it once `hold` is over.
--
-- KEYS
--   hooks       r
--   deliveries  rw
--   retries     rw
-- ARGV
--   hold        milliseconds
--   busy        webhooks whose deliveries are left, a JSON list
-- Returns its id, the hook's id, the hook, the event and how often it was tried, this time counted;
-- or false.

local time, busy = now(), {}
for _, id in ipairs(cjson.decode(A.busy)) do busy[id] = true end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', K.retries, '-inf', time, 'LIMIT', 0, 1000)) do
  local text = redis.call('HGET', K.deliveries, id)
  local delivery = text and cjson.decode(text)
  local hook = delivery and redis.call('HGET', K.hooks, delivery.hook)
  if hook and not busy[delivery.hook] then
    delivery.tries = delivery.tries + 1
    redis.call('HSET', K.deliveries, id, cjson.encode(delivery))
    redis.call('ZADD', K.retries, time + tonumber(A.hold), id)
    return {id, delivery.hook, hook, delivery.event, delivery.tries}
  end
  if not hook then  -- nobody wants it any more
    redis.call('ZREM', K.retries, id)
    redis.call('HDEL', K.deliveries, id)
  end
end
return false
