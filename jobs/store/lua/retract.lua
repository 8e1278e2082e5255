-- A checkpoint turned out to be damaged or gone: it counts no more, and the one before is the newest.
--
-- KEYS
--   request     r
--   job         w   checkpoint, previous, best
-- ARGV
--   id
--   attempt
--   artifact    key of the checkpoint's file

local request, job = fence(A.id, A.attempt)
if not request then return job end
local key = K.job .. A.id
local function is_it(field) return job[field] and cjson.decode(job[field]).artifact == A.artifact end

if is_it('best') then redis.call('HDEL', key, 'best') end
local before = not is_it('previous') and job.previous
if is_it('previous') or is_it('checkpoint') then redis.call('HDEL', key, 'previous') end
if is_it('checkpoint') then
  redis.call('HDEL', key, 'checkpoint')
  if before then redis.call('HSET', key, 'checkpoint', before) end
end
return 1
