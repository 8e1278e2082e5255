-- Take away everything of the ended jobs whose time of keeping is over. Versions of models stay.
--
-- KEYS
--   request     w
--   requests    w
--   dedupe      w
--   clearing    rw
--   job         w
--   series      w
--   points      w
--   chunks      w
--   log         w
--   files       w
--   ends        w
--   cleared     w
--   registered  r
-- ARGV
--   limit       at most so many
--   keep        so many are remembered, for those who have files of them

local due = redis.call('ZRANGEBYSCORE', K.clearing, '-inf', now(), 'LIMIT', 0, A.limit)
for _, id in ipairs(due) do
  local request, job = both(id)
  redis.call('ZREM', K.clearing, id)
  local stays = request and redis.call('HEXISTS', K.registered, id) == 1
  if not stays and (not request or ENDED[standing(request, job)]) then
    local key = request and redis.call('HGET', K.request .. id, 'key') or ''
    if key ~= '' then redis.call('HDEL', K.dedupe, key) end
    redis.call('ZREM', K.requests, id)
    local families = {K.request, K.job, K.series, K.points, K.chunks, K.log, K.files, K.ends}
    for _, family in ipairs(families) do
      redis.call('UNLINK', family .. id)
    end
    redis.call('XADD', K.cleared, 'MAXLEN', '~', A.keep, '*', 'job', id)
  end
end
return #due
