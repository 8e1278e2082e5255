-- A person asks for a generation now, whatever the timetable says.
--
-- KEYS
--   schedules   r
--   asked       rw
-- ARGV
--   schedule
-- Returns when it was asked for; asking again before a worker has heard is asking once.

if redis.call('HEXISTS', K.schedules, A.schedule) == 0 then
  return redis.error_reply('UNKNOWNSCHEDULE no schedule is called ' .. A.schedule)
end
redis.call('ZADD', K.asked, 'NX', whole(now()), A.schedule)
return whole(tonumber(redis.call('ZSCORE', K.asked, A.schedule)))
