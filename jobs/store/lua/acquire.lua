-- A worker takes the best queued job that fits it: by priority, then by age.
--
-- A job that could run here but for GPUs that are in use keeps the free ones from the jobs behind
-- it, on one worker at a time: the hold is renewed by each look and lapses with the worker.
--
-- KEYS
--   request     r
--   pending     rw
--   queues      w
--   delayed     rw  whose wait is over comes back to its place first
--   job         w   state, attempt, worker, store
--   leases      w
--   holds       rw
--   takes       rw
-- ARGV
--   worker      JSON of jobs.workers.Worker
--   nonce       tells a call sent twice from two: whose answer was lost gets the same job again
--   ttl         milliseconds
--   look        so many jobs at the head of each queue are looked at
--   further     from 0 to 1: where, behind these, as many more are looked at
-- Returns false, or the record's fields, the attempt and the lease's end.

local worker, time, ttl = read_worker(A.worker), now(), tonumber(A.ttl)
local PAGE = 50

local look = tonumber(A.look)

-- Go on from the head of a long queue to another place of it: however many jobs stand there that no
-- worker can take, those behind them come to their turn.
local function leap(head)
  local behind = redis.call('ZCARD', head.key) - look
  head.leapt = true
  if behind > 0 then
    head.read = look + math.floor(tonumber(A.further) * math.ceil(behind / look)) * look
    head.stop = head.read + look
  end
end

-- Yield the pending jobs of the worker's queues by rank, reading no more of each than is needed.
local function candidates()
  local heads = {}
  for i, queue in ipairs(worker.queues) do
    heads[i] = {key = K.pending .. queue, read = 0, stop = look, at = 1, page = {}}
  end
  local function rank(head)
    if head.at > #head.page then
      if head.read >= head.stop and not head.leapt then leap(head) end
      local last = math.min(head.read + PAGE, head.stop)
      head.page = last > head.read and redis.call('ZRANGE', head.key, head.read, last - 1, 'WITHSCORES') or {}
      head.at, head.read = 1, last
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

local function lease(id, attempt)
  redis.call('ZADD', K.leases, time + ttl, id)
  return {record(id, math.huge), attempt, time + ttl}
end

local function take(id)
  local request, job = both(id)
  local attempt = tonumber(job.attempt or 0) + 1
  redis.call('ZREM', K.pending .. request.queue, id)
  redis.call('HDEL', K.holds, id)
  redis.call('HSET', K.job .. id, 'state', 'running', 'attempt', attempt, 'worker', worker.id,
    'store', worker.store, 'catalog', worker.catalog or '', 'started', time, 'said', time)
  if job.round ~= request.round then
    redis.call('HSET', K.job .. id, 'round', request.round, 'retries', 0, 'free', 0, 'ran', 0)
  end
  redis.call('HSET', K.takes, worker.id, A.nonce .. ' ' .. id .. ' ' .. attempt)
  return lease(id, attempt)
end

local function taken_before()
  local nonce, id, attempt = string.match(redis.call('HGET', K.takes, worker.id) or '', '^(%S+) (%S+) (%d+)$')
  if nonce == A.nonce and fence(id, attempt) then return lease(id, tonumber(attempt)) end
  return nil
end

local before = taken_before()
if before then return before end
promote(time)
for id in candidates() do
  local why, yet = misfit(id, worker)
  if not why then return take(id) end
  local short = yet and worker.free_gpus > 0 and string.find(why, '^free_gpus')
  if short and holds_here(id) then worker.free_gpus = 0 end  -- there is nothing left to hold
end
return false
