-- Note that a version was looked at and the champion was kept.
--
-- KEYS
--   model       rw  challenger, nonce
--   trail       w
--   hooks       r
--   outbox      w
-- ARGV
--   name
--   number
--   nonce       tells a call sent twice from two
--   by
--   reason
--   evidence    JSON

local found, refusal = model(A.name)
refusal = refusal or unknown_version(A.name, found, A.number)
if refusal then return refusal end
if found.nonce == A.nonce then return 1 end
redis.call('HSET', K.model .. A.name, 'nonce', A.nonce)
if found.challenger == A.number then redis.call('HSET', K.model .. A.name, 'challenger', '') end
tell(A.name, 'kept', A.number, found.champion)
return 1
