-- Append points and log lines, and note the progress. Points at or below the highest step that is
-- kept of their metric are dropped: a resumed attempt repeats them.
--
-- KEYS
--   request     r
--   job         w   progress, said
--   series      rw  points, packed, lines, heard; step:NAME
--   points      w
--   log         w
-- ARGV
--   id
--   attempt
--   points      JSON list of [name, step, text]
--   progress    JSON, or empty
--   lines       JSON list
--   nonce       tells a call sent twice from two with the same lines
--   keep        log lines to keep
-- Returns how many points are not yet in compressed chunks.

local request, refusal = fence(A.id, A.attempt)
if not request then return refusal end
local series, kept = K.series .. A.id, {}
for _, point in ipairs(cjson.decode(A.points)) do
  local field = 'step:' .. point[1]
  local highest = redis.call('HGET', series, field)
  if not highest or point[2] > tonumber(highest) then
    redis.call('HSET', series, field, whole(point[2]))
    kept[#kept + 1] = point[3]
  end
end
if #kept > 0 then
  local count = redis.call('HINCRBY', series, 'points', #kept)
  redis.call('XADD', K.points .. A.id, whole(count) .. '-0', 'text', table.concat(kept, '\n'))
end
local lines = cjson.decode(A.lines)
if #lines > 0 and redis.call('HGET', series, 'heard') ~= A.nonce then
  redis.call('HSET', series, 'heard', A.nonce)
  local count = redis.call('HINCRBY', series, 'lines', #lines)
  redis.call('XADD', K.log .. A.id, whole(count) .. '-0', 'text', table.concat(lines, '\n'))
  redis.call('XTRIM', K.log .. A.id, 'MINID', whole(math.max(0, count - tonumber(A.keep))) .. '-1')
end
if A.progress ~= '' then redis.call('HSET', K.job .. A.id, 'progress', A.progress) end
if A.progress ~= '' or #kept > 0 or #lines > 0 then redis.call('HSET', K.job .. A.id, 'said', now()) end
local counts = redis.call('HMGET', series, 'points', 'packed')
return tonumber(counts[1] or 0) - tonumber(counts[2] or 0)
