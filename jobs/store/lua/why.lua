-- What keeps a queued job from running.
--
-- KEYS
--   request     r
--   job         r
--   pending     r
--   workers     r
--   alive       r
-- ARGV
--   id
-- Returns its place in the queue (-1 if it is not there), and for each living worker its id, its
-- queues as JSON, and what does not fit: empty, or the words of `misfit`.

local request = both(A.id)
if not request then return redis.error_reply('UNKNOWN no job has the id ' .. A.id) end
local found = {}
for _, said in ipairs(living(whole(now()))) do
  local worker = read_worker(string.match(said, '^%d+ (.*)$'))
  found[#found + 1] = {worker.id, cjson.encode(worker.queues), (misfit(A.id, worker)) or ''}
end
return {redis.call('ZRANK', K.pending .. request.queue, A.id) or -1, found}
