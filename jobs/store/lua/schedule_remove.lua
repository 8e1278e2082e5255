-- A person removes a schedule; workers then end what is open of it, and forget the rest.
--
-- KEYS
--   schedules   w
--   due         w
--   asked       w
--   paused      w
-- ARGV
--   schedule

if redis.call('HDEL', K.schedules, A.schedule) == 0 then
  return redis.error_reply('UNKNOWNSCHEDULE no schedule is called ' .. A.schedule)
end
redis.call('ZREM', K.due, A.schedule)
redis.call('ZREM', K.asked, A.schedule)
redis.call('SREM', K.paused, A.schedule)
return 1
