-- Keep a small file of a job for clients that do not share the artifact store.
--
-- KEYS
--   request     r
--   job         r
--   files       rw
-- ARGV
--   id
--   attempt
--   name
--   content
--   bound       bytes that all files of a job may have together
-- Returns 1, or 0 if there is no room.

local request, refusal = fence(A.id, A.attempt)
if not request then return refusal end
local total = #A.content
for _, name in ipairs(redis.call('HKEYS', K.files .. A.id)) do
  if name ~= A.name then total = total + redis.call('HSTRLEN', K.files .. A.id, name) end
end
if total > tonumber(A.bound) then return 0 end
redis.call('HSET', K.files .. A.id, A.name, A.content)
return 1
