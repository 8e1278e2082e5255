-- Forget what became of schedules that were removed, once nothing of them is open.
--
-- KEYS
--   schedules   r
--   open        r
--   scheduled   rw
--   memory      w
--   generations rw
--   generation  w

for _, name in ipairs(redis.call('SMEMBERS', K.scheduled)) do
  if redis.call('HEXISTS', K.schedules, name) == 0 and #open_of(name) == 0 then
    local index = K.generations .. name
    for _, each in ipairs(redis.call('ZRANGE', index, 0, -1)) do
      redis.call('UNLINK', K.generation .. each)
    end
    redis.call('UNLINK', index, K.memory .. name)
    redis.call('SREM', K.scheduled, name)
  end
end
return 1
