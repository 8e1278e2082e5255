-- Write down who wants to be told, of what, and by which secret; or, with nothing, forget it.
--
-- KEYS
--   hooks       w
-- ARGV
--   id
--   hook        JSON, or empty
-- Returns 1, or 0 where there was none to forget.

if A.hook == '' then return redis.call('HDEL', K.hooks, A.id) end
redis.call('HSET', K.hooks, A.id, A.hook)
return 1
