-- A due time is fired: it moves on to the next one, its generation is there, and the training is in the
-- queue, all at once. Whoever saw an older due time, or an older schedule, changes nothing.
--
-- KEYS
--   schedules   r
--   paused      r
--   due         rw
--   asked       rw
--   memory      rw  fired, data:CREATED
--   scheduled   w
--   generation  rw
--   generations w
--   open        rw
--   request     w
--   requests    w
--   pending     w
--   queues      w
--   waiting     w
--   dedupe      rw
--   sequence    rw
--   job         r
-- ARGV
--   schedule
--   definition  of the schedule, as the caller saw it
--   trigger     time, asked or data
--   seen        the due time, the time of asking, or the digest of the data, as the caller saw it
--   following   what comes in its place: the next due time or the new digest; may be empty
--   moment      name of the generation: a due time, or now
--   outcome     empty, or what a generation that is not trained comes to
--   reason
--   overlap     skip, queue or cancel-previous
--   body        JSON: further fields of the generation
--   id          of the training, and the further arguments of create.lua
--   nonce
--   key
--   priority
--   after
--   queue
--   fields
--   spec
-- Returns the stage of the generation; "moved" where another was faster, an empty string where the id of
-- the training is taken.

if redis.call('HGET', K.schedules, A.schedule) ~= A.definition then return 'moved' end
local memory, generation = K.memory .. A.schedule, A.schedule .. ':' .. A.moment
local field = 'data:' .. whole(cjson.decode(A.definition).created)

local function is_as_seen()
  if A.trigger == 'data' then
    if redis.call('SISMEMBER', K.paused, A.schedule) == 1 then return false end
    return (redis.call('HGET', memory, field) or '') == A.seen
  end
  local score = redis.call('ZSCORE', A.trigger == 'time' and K.due or K.asked, A.schedule)
  return score and tonumber(score) == tonumber(A.seen)
end

local function move_on()
  if A.trigger == 'data' then
    redis.call('HSET', memory, field, A.following)
  elseif A.trigger == 'asked' then
    redis.call('ZREM', K.asked, A.schedule)
  elseif A.following == '' then
    redis.call('ZREM', K.due, A.schedule)
  else
    redis.call('ZADD', K.due, A.following, A.schedule)
  end
end

if not is_as_seen() then return 'moved' end
if redis.call('EXISTS', K.generation .. generation) == 1 then  -- asked for in the millisecond of a due time
  move_on()
  return 'moved'
end

local others, time = open_of(A.schedule), now()
local stage, outcome, reason, train = 'training', A.outcome, A.reason, ''
if outcome ~= '' then
  stage = 'decided'
elseif #others > 0 and A.overlap == 'skip' then
  stage, outcome = 'decided', 'skipped'
  reason = 'the generation ' .. others[1] .. ' was not decided yet'
elseif #others > 0 then
  stage = 'waiting'
else
  train = submit()
  if type(train) ~= 'string' or train == '' then return train end
end

if stage == 'waiting' and A.overlap == 'cancel-previous' then
  for _, other in ipairs(others) do
    local key = K.generation .. other
    local now_at = redis.call('HGET', key, 'stage')
    if now_at ~= 'deciding' and now_at ~= 'cancelling' then
      redis.call('HSET', key, 'stage', 'cancelling', 'reason', 'the generation ' .. generation .. ' took its place')
      redis.call('HINCRBY', key, 'step', 1)
    end
  end
end

move_on()
redis.call('HSET', K.generation .. generation, 'stage', stage, 'step', 1, 'fired', whole(time),
  'ended', stage == 'decided' and whole(time) or 0, 'train', train, 'outcome', outcome,
  'reason', reason, 'definition', A.definition, 'body', A.body)
redis.call('ZADD', K.generations .. A.schedule, A.moment, generation)
redis.call('SADD', K.scheduled, A.schedule)
if stage ~= 'decided' then
  redis.call('ZADD', K.open, A.moment, generation)
  redis.call('HSET', memory, 'fired', whole(time))
end
return stage
