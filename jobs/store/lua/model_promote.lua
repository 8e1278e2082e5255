-- Let a version be the champion, if the champion still is the one that was seen.
--
-- KEYS
--   model       rw  champion, challenger, before, nonce, released:NUMBER
--   trail       w
--   hooks       r
--   outbox      w
-- ARGV
--   name
--   number
--   expect      the champion that was seen, or empty for none
--   nonce       tells a call sent twice from two
--   by
--   reason
--   evidence    JSON
-- Returns 1, or 0 where another is the champion by now.

local found, refusal = model(A.name)
refusal = refusal or unknown_version(A.name, found, A.number)
if refusal then return refusal end
if found.nonce == A.nonce then return 1 end
if found.champion ~= A.expect then return 0 end
if found.champion == A.number then
  return redis.error_reply('NOTALLOWED ' .. A.name .. '@' .. A.number .. ' is the champion already')
end
if found['released:' .. A.number] then
  return redis.error_reply('NOTALLOWED ' .. A.name .. '@' .. A.number .. ' was released: its files are kept no more')
end
if found.champion ~= '' then table.insert(found.before, found.champion) end
crown(A.name, found, A.number, found.before)
tell(A.name, 'promoted', A.number, found.champion)
return 1
