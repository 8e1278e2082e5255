-- What the transitions share. K, A and the rules of jobs/job.py stand before it.
--
-- A job is two hashes: its request (what was asked for, and what was wished since) and its job state
-- (what the workers made of it). `round` counts the times it was asked for: a retry is a new round,
-- and a job state of an older round says nothing about where the job stands now.

local function now()
  if A.now ~= '' then return tonumber(A.now) end  -- the clock of a test
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

-- Where its memory is full, Redis refuses the first write of a script, but for those that take none;
-- what follows in the same script goes through. So begin what keeps leases alive and what ends jobs:
-- it takes little, and without it nothing would ever be given back.
local function despite_full_memory(key) redis.call('PERSIST', key) end

local function whole(number) return string.format('%.0f', number) end

local function hash(key)
  local flat, found = redis.call('HGETALL', key), {}
  for i = 1, #flat, 2 do found[flat[i]] = flat[i + 1] end
  return found
end

-- The request and the job state of a job; nil where there is no request. The spec may be large and
-- no transition looks into it.
local REQUEST = {'kind', 'round', 'queue', 'rank', 'retries', 'keep', 'retry_nan', 'after', 'waits',
                 'withdrawn', 'held', 'backoff', 'backoff_max'}
local function both(id)
  local values = redis.call('HMGET', K.request .. id, unpack(REQUEST))
  if not values[1] then return nil end
  local request = {}
  for i, name in ipairs(REQUEST) do request[name] = values[i] or nil end
  return request, hash(K.job .. id)
end

-- Where a job stands, one of jobs.job.JobState.
local function standing(request, job)
  local state = job.round == request.round and job.state or 'queued'
  if state ~= 'queued' then return state end
  if request.withdrawn then return 'cancelled' end
  if request.held then return 'paused' end
  if request.waits then return 'blocked' end
  return 'queued'
end

-- What a person wishes of a running job and its worker has not yet done.
local function wish(request, job)
  if standing(request, job) ~= 'running' then return '' end
  return request.withdrawn and 'cancel' or request.held and 'pause' or ''
end

-- The fence: what `both` returns if this attempt may write, else nil and the refusal.
local function fence(id, attempt)
  local request, job = both(id)
  if not request then return nil, redis.error_reply('STALE job ' .. id .. ' was removed') end
  if standing(request, job) == 'running' and job.attempt == attempt then return request, job end
  return nil, redis.error_reply('STALE attempt ' .. attempt .. ' of job ' .. id ..
    ' may write no more: the job is ' .. standing(request, job) .. ' after attempt ' ..
    (job.attempt or '0'))
end

local function enqueue(id, request)
  redis.call('ZADD', K.pending .. request.queue, request.rank, id)
  redis.call('SADD', K.queues, request.queue)
end

-- Let those be taken again whose wait before a retry is over.
local function promote(until_then)
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', K.delayed, '-inf', until_then)) do
    redis.call('ZREM', K.delayed, id)
    local request, job = both(id)
    if request and standing(request, job) == 'queued' then enqueue(id, request) end
  end
end

-- Milliseconds between an end and the next attempt, doubled with each end of its kind: none after the
-- first free end of a row, so that a killed worker costs a second.
local function wait_before_retry(request, reason, retries, free)
  if FREE_RETRIES[reason] then return free > 1 and FREE_BACKOFF_MS * 2 ^ (free - 2) or 0 end
  return math.min(tonumber(request.backoff or 0) * 2 ^ (retries - 1), tonumber(request.backoff_max or 0))
end

-- The job that an entry of `after` names, and whether any end of it will do (`ID:ended`).
local function awaited(entry)
  local id = string.match(entry, '^(.+):ended$')
  return id or entry, id ~= nil
end

-- Put a request into the queue, once for each idempotency key; create.lua explains what it is asked
-- with. Returns the id of the job of the key, an empty string if the id is taken, or a refusal: then
-- nothing was written.
local function submit()
  if A.key ~= '' then
    local known = redis.call('HGET', K.dedupe, A.key)
    if known then return known end
  end
  local nonce = redis.call('HGET', K.request .. A.id, 'nonce')
  if nonce then return nonce == A.nonce and A.id or '' end

  local blocked = false
  for _, entry in ipairs(cjson.decode(A.after)) do
    local parent, any_end = awaited(entry)
    local request, job = both(parent)
    if not request then return redis.error_reply('UNKNOWN no job has the id ' .. parent .. ', which this one would wait for') end
    local state = standing(request, job)
    if ENDED[state] and state ~= 'succeeded' and not any_end then
      return redis.error_reply('REFUSED job ' .. parent .. ', which this one would wait for, ended as ' .. state)
    end
    blocked = blocked or not ENDED[state]
  end

  local time, key = now(), K.request .. A.id
  local request = {queue = A.queue, rank = whole(redis.call('INCR', K.sequence) - tonumber(A.priority) * 1e12)}
  redis.call('HSET', key, 'spec', A.spec, 'nonce', A.nonce, 'key', A.key,
    'queue', A.queue, 'priority', A.priority, 'rank', request.rank, 'after', A.after,
    'round', 1, 'submitted', time, unpack(cjson.decode(A.fields)))
  redis.call('ZADD', K.requests, time, A.id)
  if A.key ~= '' then redis.call('HSET', K.dedupe, A.key, A.id) end
  if blocked then
    redis.call('HSET', key, 'waits', 1)
    redis.call('HSET', K.waiting, A.id, A.after)
  else
    enqueue(A.id, request)
  end
  return A.id
end

-- The generations of a schedule that are not decided, the earliest due first.
local function open_of(schedule)
  local found, head = {}, schedule .. ':'
  for _, each in ipairs(redis.call('ZRANGE', K.open, 0, -1)) do
    if string.sub(each, 1, #head) == head then found[#found + 1] = each end
  end
  return found
end

-- Leave word of what happened for those who want to be told; where nobody does, leave none. That
-- memory is full must not keep a job from its end.
local function leave_word(kind, about)
  if redis.call('EXISTS', K.hooks) == 0 then return end
  about.type, about.time = kind, whole(now())
  redis.pcall('XADD', K.outbox, 'MAXLEN', '~', '10000', '*', 'event', cjson.encode(about))
end

-- A job comes to its end in the present round.
local function conclude(id, request, state, time, fields)
  redis.call('HSET', K.job .. id, 'state', state, 'round', request.round, 'ended', time, unpack(fields))
  redis.call('ZADD', K.clearing, time + tonumber(request.keep), id)
  leave_word(state, {job = id, kind = request.kind, reason = fields[2], message = fields[4]})
end

-- Remember how an attempt ended; `evidence` is what its worker saw of it, as JSON, or empty.
local function note_end(id, job, reason, message, evidence, time)
  local noted = evidence ~= '' and cjson.decode(evidence) or {}
  noted.attempt, noted.worker, noted.reason = tonumber(job.attempt), job.worker, reason
  noted.message, noted.started, noted.ended = message, tonumber(job.started), time
  redis.call('RPUSH', K.ends .. id, cjson.encode(noted))
  redis.call('LTRIM', K.ends .. id, -MAX_ENDS, -1)
end

-- An attempt is over: the job ends or goes back to its place in the queue. Returns its state.
local function settle(id, request, job, reason, message, traceback, evidence, time)
  local retries, free = tonumber(job.retries or 0), tonumber(job.free or 0)
  local again, wait = false, 0
  if request.withdrawn and reason ~= 'succeeded' then
    if reason == 'preempted' then message = '' end  -- that it was handed back is not why it ended
    reason = 'cancelled'
  end
  if reason == 'preempted' and request.held then
    again = true
  elseif FREE_RETRIES[reason] then
    free = free + 1
    again = free < MAX_FREE_RETRIES
    if not again then
      message = free .. ' attempts in a row ended without a newer checkpoint; the last: ' ..
        (message ~= '' and message or reason)
    end
  elseif COUNTED_RETRIES[reason] and (reason ~= 'nan' or request.retry_nan) then
    free = 0
    again = retries < tonumber(request.retries)
    if again then retries = retries + 1 end
  end
  if again and not request.held then wait = wait_before_retry(request, reason, retries, free) end
  local state = again and 'queued' or 'failed'
  if reason == 'succeeded' or reason == 'cancelled' then state = reason end
  local ran = tonumber(job.ran or 0) + math.max(0, time - tonumber(job.started))
  local fields = {'reason', reason, 'message', message, 'traceback', traceback,
                  'retries', retries, 'free', free, 'ran', ran,
                  'last_ended', time}
  redis.call('ZREM', K.leases, id)
  note_end(id, job, reason, message, evidence, time)
  if state ~= 'queued' then
    conclude(id, request, state, time, fields)
    return state
  end
  redis.call('HSET', K.job .. id, 'state', state, unpack(fields))
  if wait > 0 then
    redis.call('ZADD', K.delayed, time + wait, id)
  elseif not request.held then
    enqueue(id, request)
  end
  return standing(request, {state = state, round = job.round})
end

-- Where the files lie that a job cannot do without: its checkpoint's, else its origin's; or nil.
local function bound_to(id, origin)
  local job = redis.call('HMGET', K.job .. id, 'checkpoint', 'store')
  local store = job[1] and job[2] or origin and redis.call('HGET', K.job .. origin, 'store')
  return store and store ~= '' and store or nil
end

-- The digest of the catalogue that was published last for a queue, or nil.
local function newest_catalog(queue)
  local newest, digest = -1, nil
  for _, json in ipairs(redis.call('HVALS', K.offers)) do
    local offer = cjson.decode(json)
    for _, served in ipairs(offer.queues) do
      if served == queue and offer.time > newest then newest, digest = offer.time, offer.digest end
    end
  end
  return digest
end

-- What orders the versions of this package that read different specs: the first two numbers.
local function release(version, unknown)
  local major, minor = string.match(version or '', '^(%d+)%.(%d+)')
  return major and major * 1000 + minor or unknown
end

-- Why a worker cannot take a job: nil if it can, else a word and whether it may yet come to it. A
-- long queue is looked through a job at a time, so that no more of each is read than decides it.
local function misfit(id, worker)
  local needs = redis.call('HMGET', K.request .. id, 'labels', 'gpus', 'origin', 'version', 'kind')
  if not needs[1] then return 'request', false end
  if needs[1] ~= '[]' then
    for _, label in ipairs(cjson.decode(needs[1])) do
      if not worker.has[label] then return 'label ' .. label, false end
    end
  end
  local version = needs[4] or ''
  if version ~= worker.version and release(version, 0) > release(worker.version, math.huge) then
    return 'version ' .. version .. ' ' .. worker.version, false
  end
  local needed = tonumber(needs[2]) or math.min(1, worker.gpus)
  if needed > worker.gpus then return 'gpus ' .. needed .. ' ' .. worker.gpus, false end
  local store = bound_to(id, needs[3])
  if store and store ~= worker.store then return 'store ' .. store, false end
  local free = worker.free_slots
  if ANSWERS[needs[5]] then free = free + (worker.free_answer_slots or 0) end
  if free < 1 then
    local trouble = worker.trouble or ''
    return trouble == '' and 'slots' or 'trouble ' .. trouble, true
  end
  if needed > worker.free_gpus then return 'free_gpus ' .. needed .. ' ' .. worker.free_gpus, true end
  return nil
end

local function read_worker(json)
  local worker = cjson.decode(json)
  worker.has = {}
  for _, label in ipairs(worker.labels) do worker.has[label] = true end
  return worker
end

-- The workers that are alive, in the order of their ids, each with the time of its last word.
local function living(time)
  local found = {}
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', K.alive, '(' .. time, '+inf')) do
    local said = redis.call('HGET', K.workers, id)
    if said then found[#found + 1] = said end
  end
  return found
end

-- What a job state says of its round alone.
local OF_A_ROUND = {state = true, retries = true, free = true}

-- A job as jobs/store/records.py reads it. A spec of more than `bound` bytes is left out.
local function record(id, bound)
  local request, job = both(id)
  if not request then return nil end
  local spec = ''
  if redis.call('HSTRLEN', K.request .. id, 'spec') <= bound then
    spec = redis.call('HGET', K.request .. id, 'spec')
  end
  local asked = redis.call('HMGET', K.request .. id, 'priority', 'submitted', 'note', 'tags')
  local fields = {'id', id, 'kind', request.kind, 'spec', spec, 'queue', request.queue,
                  'priority', asked[1], 'submitted', asked[2], 'note', asked[3], 'tags', asked[4],
                  'withdrawn', request.withdrawn or '', 'state_now', standing(request, job),
                  'wish', wish(request, job)}
  for name, value in pairs(job) do
    if job.round == request.round or not OF_A_ROUND[name] then
      fields[#fields + 1] = name
      fields[#fields + 1] = value
    end
  end
  return fields
end

-- A model as its hash has it, or nil and the refusal. `before` holds the champions before this one.
local function model(name)
  local found = hash(K.model .. name)
  if not found.versions then return nil, redis.error_reply('UNKNOWNMODEL no model is called ' .. name) end
  found.before = cjson.decode(found.before)
  return found
end

-- The refusal of a version that a model does not have; else nil.
local function unknown_version(name, found, number)
  if tonumber(number) >= 1 and tonumber(number) <= tonumber(found.versions) then return nil end
  return redis.error_reply('UNKNOWNMODEL ' .. name .. ' has no version ' .. number .. ': they are 1 to ' .. found.versions)
end

-- Add to what was done with a model. The evidence stays the text it came as.
local function tell(name, action, version, before)
  redis.call('RPUSH', K.trail .. name, cjson.encode({
    time = whole(now()), by = A.by, action = action, version = version, before = before,
    reason = A.reason, evidence = A.evidence}))
  leave_word(action, {model = name, version = version, before = before, by = A.by, reason = A.reason})
end

-- Let another version be the champion.
local function crown(name, found, number, before)
  local challenger = found.challenger ~= number and found.challenger or ''
  redis.call('HSET', K.model .. name, 'champion', number, 'challenger', challenger,
    'before', #before > 0 and cjson.encode(before) or '[]', 'nonce', A.nonce)
end
