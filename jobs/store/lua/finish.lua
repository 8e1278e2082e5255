-- An attempt ends: the job with it, or it goes back to its place in the queue.
--
-- KEYS
--   request     r
--   job         w   state, reason, result, ...
--   leases      w
--   pending     w
--   queues      w
--   delayed     w   where it waits before a retry
--   clearing    w
--   ends        w
--   hooks       r
--   outbox      w
-- ARGV
--   id
--   attempt
--   reason      one of jobs.job.Reason
--   message
--   traceback
--   result      JSON
--   evidence    JSON, or empty
-- Returns the state. Saying the same twice is saying it once, so that a lost answer can be asked for.

local finished = A.attempt .. ' ' .. A.reason
local request, job = fence(A.id, A.attempt)
if not request then
  local asked, state = both(A.id)
  if asked and state.finished == finished then return standing(asked, state) end
  return job
end
despite_full_memory(K.leases)
redis.call('HSET', K.job .. A.id, 'finished', finished)
if A.reason == 'succeeded' then redis.call('HSET', K.job .. A.id, 'result', A.result) end
return settle(A.id, request, job, A.reason, A.message, A.traceback, A.evidence, now())
