-- A person pauses a schedule, which takes its due time away, or goes on with it.
--
-- KEYS
--   schedules   r
--   paused      w
--   due         w
-- ARGV
--   schedule
--   hold        1 to pause
--   moment      its next due time, or empty

if redis.call('HEXISTS', K.schedules, A.schedule) == 0 then
  return redis.error_reply('UNKNOWNSCHEDULE no schedule is called ' .. A.schedule)
end
if A.hold == '1' then
  redis.call('SADD', K.paused, A.schedule)
  redis.call('ZREM', K.due, A.schedule)
elseif redis.call('SREM', K.paused, A.schedule) == 1 and A.moment ~= '' then
  redis.call('ZADD', K.due, A.moment, A.schedule)
end
return 1
