-- Let the champion before be the champion again; once more goes further back.
--
-- KEYS
--   model       rw  champion, challenger, before, nonce
--   trail       w
--   hooks       r
--   outbox      w
-- ARGV
--   name
--   expect      the champion that was seen
--   nonce       tells a call sent twice from two
--   by
--   reason
--   evidence    JSON
-- Returns 1, or 0 where another is the champion by now.

local found, refusal = model(A.name)
if refusal then return refusal end
if found.nonce == A.nonce then return 1 end
if found.champion ~= A.expect then return 0 end
local earlier = table.remove(found.before)
if not earlier then
  return redis.error_reply('NOTALLOWED ' .. A.name .. ' has had no champion before ' ..
    (found.champion ~= '' and 'version ' .. found.champion or 'now'))
end
crown(A.name, found, earlier, found.before)
tell(A.name, 'rolled_back', earlier, found.champion)
return 1
