-- What every worker does a few times a second for all: take jobs over whose lease ran out, let jobs
-- go whose wait is over, forget workers that are gone, and name the queues whose bell should ring.
--
-- If nobody swept for more than half a lease, nobody could speak either (Redis was away, or all
-- workers were): then every lease runs anew and nothing expires. The same where the server's clock was
-- set back, or what died before that would live for as long as it was.
--
-- KEYS
--   request     w   waits
--   job         w
--   leases      rw
--   pending     rw
--   queues      rw
--   delayed     rw
--   waiting     rw
--   clearing    w
--   ends        w
--   workers     rw
--   alive       rw
--   offers      rw
--   catalogs    rw
--   holds       rw
--   takes       w
--   swept       rw
--   hooks       r
--   outbox      w
-- ARGV
--   ttl         milliseconds
--   look        at most so many jobs of each queue are looked at
-- Returns the jobs whose lease ran out, and the queues to ring.

local time, ttl = now(), tonumber(A.ttl)
local silence = time - tonumber(redis.call('GET', K.swept) or 0)
local set_back = silence < 0
despite_full_memory(K.swept)
redis.call('SET', K.swept, time)

local function extend(index)
  local entries = redis.call('ZRANGE', index, 0, -1, 'WITHSCORES')
  for i = 1, #entries, 2 do
    local until_then = set_back and 0 or tonumber(entries[i + 1])
    redis.call('ZADD', index, math.max(until_then, time + ttl), entries[i])
  end
end

local function expire()
  local expired = redis.call('ZRANGEBYSCORE', K.leases, '-inf', time)
  for _, id in ipairs(expired) do
    local request, job = both(id)
    if request then
      settle(id, request, job, 'lost', 'the lease of ' .. job.worker .. ' ran out', '', '', time)
    else
      redis.call('ZREM', K.leases, id)  -- somebody else's hand: it must not stop the sweep of all
    end
  end
  return expired
end

local function bury()
  local gone = redis.call('ZRANGEBYSCORE', K.alive, '-inf', time)
  for _, id in ipairs(gone) do
    redis.call('ZREM', K.alive, id)
    redis.call('HDEL', K.workers, id)
    redis.call('HDEL', K.offers, id)
    redis.call('HDEL', K.takes, id)
  end
  if #gone == 0 then return end
  local offered = {}
  for _, offer in ipairs(redis.call('HVALS', K.offers)) do offered[cjson.decode(offer).digest] = true end
  for _, digest in ipairs(redis.call('HKEYS', K.catalogs)) do
    if not offered[digest] then redis.call('HDEL', K.catalogs, digest) end
  end
end

local function drop_holds()
  local held = redis.call('HGETALL', K.holds)
  for i = 1, #held, 2 do
    local lapsed = tonumber(string.match(held[i + 1], '%d+$')) <= time
    if lapsed or set_back then redis.call('HDEL', K.holds, held[i]) end
  end
end

local function how_it_ended(state, job)
  if state == 'removed' then return 'was removed' end
  local said = 'ended as ' .. state
  if state ~= 'failed' then return said end
  return said .. ' (' .. job.reason .. ')' .. (job.message ~= '' and ': ' .. job.message or '')
end

-- Whether all jobs of a list succeeded, or ended where that will do; if one never will, the end that
-- who waits for them comes to.
local function verdict(after)
  local ready = true
  for _, entry in ipairs(cjson.decode(after)) do
    local parent, any_end = awaited(entry)
    local asked, job = both(parent)
    local state = asked and standing(asked, job) or 'removed'
    local over = state == 'removed' or ENDED[state]
    if state ~= 'succeeded' and not (over and any_end) then
      if over then
        return {reason = state == 'failed' and job.reason or 'cancelled', message = 'job ' .. parent ..
          ', which this one waited for, ' .. how_it_ended(state, job)}
      end
      ready = false
    end
  end
  return {ready = ready}
end

local function unblock()
  local known = {}  -- thousands may wait for the same jobs
  local waiting = redis.call('HGETALL', K.waiting)
  for i = 1, #waiting, 2 do
    local id, after = waiting[i], waiting[i + 1]
    known[after] = known[after] or verdict(after)
    local ready, reason = known[after].ready, known[after].reason
    if ready or reason then
      local request = both(id)
      redis.call('HDEL', K.waiting, id)
      if request then redis.call('HDEL', K.request .. id, 'waits') end
      if request and ready then enqueue(id, request) end
      if request and reason then
        conclude(id, request, 'failed', time,
          {'reason', reason, 'message', known[after].message, 'traceback', ''})
      end
    end
  end
end

local function fits_some(queue, workers)
  local serving = {}
  for _, worker in ipairs(workers) do
    if worker.serves[queue] then serving[#serving + 1] = worker end
  end
  if #serving == 0 then return false end
  for _, id in ipairs(redis.call('ZRANGE', K.pending .. queue, 0, A.look - 1)) do
    for _, worker in ipairs(serving) do
      if not misfit(id, worker) then return true end
    end
  end
  return false
end

local function bells()
  local workers, rung = {}, {}
  for _, said in ipairs(living(time)) do
    local worker = read_worker(string.match(said, '^%d+ (.*)$'))
    worker.serves = {}
    for _, queue in ipairs(worker.queues) do worker.serves[queue] = true end
    -- Slots for answers alone get no bell: every queue would be looked through for each busy worker.
    if worker.free_slots > 0 then workers[#workers + 1] = worker end
  end
  for _, queue in ipairs(redis.call('SMEMBERS', K.queues)) do
    if redis.call('EXISTS', K.pending .. queue) == 0 then
      redis.call('SREM', K.queues, queue)
    elseif fits_some(queue, workers) then
      rung[#rung + 1] = queue
    end
  end
  return rung
end

local expired = {}
if silence > ttl / 2 or set_back then
  extend(K.leases)
  extend(K.alive)
else
  expired = expire()
  bury()
end
drop_holds()
promote(set_back and '+inf' or time)
unblock()
return {expired, bells()}
