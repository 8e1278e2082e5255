-- A generation that waited for another begins: its training goes into the queue.
--
-- KEYS
--   generation  rw
--   open        r
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
--   generation
--   id          of the training, and the further arguments of create.lua
--   nonce
--   key
--   priority
--   after
--   queue
--   fields
--   spec
-- Returns its stage; an empty string where the id of the training is taken.

local key = K.generation .. A.generation
local stage = redis.call('HGET', key, 'stage') or 'gone'
if stage ~= 'waiting' or open_of(A.schedule)[1] ~= A.generation then return stage end
local train = submit()
if type(train) ~= 'string' or train == '' then return train end
redis.call('HSET', key, 'stage', 'training', 'train', train)
redis.call('HINCRBY', key, 'step', 1)
return 'training'
