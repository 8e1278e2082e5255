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
local first, hook, since
-- Of what was left at one time the ids tell the order.
local function is_earlier(time, id) return not first or time < since or time == since and id < first end
for _, id in ipairs(redis.call('HKEYS', K.hooks)) do
  local due = redis.call('ZRANGEBYSCORE', K.retries .. id, '-inf', time, 'WITHSCORES', 'LIMIT', 0, 1)
  if due[1] and not busy[id] and is_earlier(tonumber(due[2]), due[1]) then
    first, hook, since = due[1], id, tonumber(due[2])
  end
end
if not first then return false end
local delivery = cjson.decode(redis.call('HGET', K.deliveries .. hook, first))
delivery.tries = delivery.tries + 1
redis.call('HSET', K.deliveries .. hook, first, cjson.encode(delivery))
redis.call('ZADD', K.retries .. hook, time + tonumber(A.hold), first)
return {first, hook, redis.call('HGET', K.hooks, hook), delivery.event, delivery.tries}
