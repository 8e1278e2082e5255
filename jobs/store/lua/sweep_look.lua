-- Forget the sweeps whose time of keeping is over, and name those that go on.
--
-- KEYS
--   sweeps      w
--   sweeping    rw
-- Returns the ids of those that go on.

for _, id in ipairs(redis.call('ZRANGEBYSCORE', K.sweeping, '-inf', now())) do
  redis.call('HDEL', K.sweeps, id)
  redis.call('ZREM', K.sweeping, id)
end
return redis.call('ZRANGEBYSCORE', K.sweeping, '+inf', '+inf')
