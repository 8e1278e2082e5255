-- What keeps a job where it is.
--
-- KEYS
--   request     r
--   job         r
--   pending     r
--   delayed     r
--   leases      r
--   workers     r
--   alive       r
--   offers      r
-- ARGV
--   id
-- Returns the time, its place in the queue (-1 if it is not there), when its retry is due and when
-- its lease runs out (empty if it waits for none), the digest of its queue's newest catalogue, and for
-- each living worker its id, its queues as JSON, and what does not fit: empty, or the words of `misfit`.

local request = both(A.id)
if not request then return redis.error_reply('UNKNOWN no job has the id ' .. A.id) end
local time, found = now(), {}
for _, said in ipairs(living(whole(time))) do
  local worker = read_worker(string.match(said, '^%d+ (.*)$'))
  found[#found + 1] = {worker.id, cjson.encode(worker.queues), (misfit(A.id, worker)) or ''}
end
return {time, redis.call('ZRANK', K.pending .. request.queue, A.id) or -1,
        redis.call('ZSCORE', K.delayed, A.id) or '', redis.call('ZSCORE', K.leases, A.id) or '',
        newest_catalog(request.queue) or '', found}
