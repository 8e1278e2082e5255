-- A worker takes the best queued job that fits it: by priority, then by age.
--
-- A job that could run here but for GPUs that are in use keeps the free ones from the jobs behind
-- it, on one worker at a time: the hold is renewed by each look and lapses with the worker.
--
-- KEYS
--   request     r
--   pending     rw
--   job         w   state, attempt, worker, store
--   leases      w
--   holds       rw
-- ARGV
--   worker      JSON of jobs.workers.Worker
--   ttl         milliseconds
--   look        at most so many jobs of each queue are looked at
-- Returns false, or the record's fields, the attempt and the lease's end.

local worker, time, ttl = read_worker(A.worker), now(), tonumber(A.ttl)
local PAGE = 50

-- Yield the pending jobs of the worker's queues by rank, reading no more of each than is needed.
local function candidates()
  local heads = {}
  for i, queue in ipairs(worker.queues) do heads[i] = {key = K.pending .. queue, read = 0, at = 1, page = {}} end
  local function rank(head)
    if head.at > #head.page and head.read < tonumber(A.look) then
      head.page = redis.call('ZRANGE', head.key, head.read, head.read + PAGE - 1, 'WITHSCORES')
      head.at, head.read = 1, head.read + PAGE
    end
    return tonumber(head.page[head.at + 1])
  end
  return function()
    local best, least = nil, math.huge
    for _, head in ipairs(heads) do
      local ranked = rank(head)
      if ranked and ranked < least then best, least = head, ranked end
    end
    if not best then return nil end
    best.at = best.at + 2
    return best.page[best.at - 2]
  end
end

local function holds_here(id)
  local holder, until_then = string.match(redis.call('HGET', K.holds, id) or '', '^(.*) (%d+)$')
  if holder and holder ~= worker.id and tonumber(until_then) > time then return false end
  redis.call('HSET', K.holds, id, worker.id .. ' ' .. whole(time + ttl))
  return true
end

local function take(id, request, job)
  local attempt = tonumber(job.attempt or 0) + 1
  redis.call('ZREM', K.pending .. request.queue, id)
  redis.call('HDEL', K.holds, id)
  redis.call('HSET', K.job .. id, 'state', 'running', 'attempt', attempt, 'worker', worker.id,
    'store', worker.store, 'started', time)
  if job.round ~= request.round then
    redis.call('HSET', K.job .. id, 'round', request.round, 'retries', 0, 'free', 0, 'ran', 0)
  end
  redis.call('ZADD', K.leases, time + ttl, id)
  return {record(id, math.huge), attempt, time + ttl}
end

for id in candidates() do
  local request, job = both(id)
  local why, yet = misfit(request, job, worker)
  if not why then return take(id, request, job) end
  if yet and string.find(why, '^free_gpus') and holds_here(id) then worker.free_gpus = 0 end
end
return false
