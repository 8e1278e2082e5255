-- Leave word for one alone, to try whether it arrives.
--
-- KEYS
--   hooks       r
--   outbox      w
-- ARGV
--   id
-- Returns 1, or 0 where there is no such hook.

if redis.call('HEXISTS', K.hooks, A.id) == 0 then return 0 end
leave_word('test', {hook = A.id})
return 1
