-- A person adds a schedule, with its first due time.
--
-- KEYS
--   schedules   rw
--   due         w
--   paused      w
--   asked       w
-- ARGV
--   schedule    its name
--   definition  JSON of jobs.schedules.Schedule
--   moment      its first due time, or empty
-- Saying the same twice is saying it once.

local known = redis.call('HGET', K.schedules, A.schedule)
if known == A.definition then return 1 end
if known then
  return redis.error_reply('NOTALLOWED there is a schedule ' .. A.schedule .. ': remove it first, or choose another name')
end
redis.call('HSET', K.schedules, A.schedule, A.definition)
redis.call('SREM', K.paused, A.schedule)
redis.call('ZREM', K.asked, A.schedule)
if A.moment ~= '' then redis.call('ZADD', K.due, A.moment, A.schedule) end
return 1
