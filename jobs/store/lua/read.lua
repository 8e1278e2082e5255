-- Read the records of some jobs.
--
-- KEYS
--   request     r
--   job         r
-- ARGV
--   ids         JSON list
--   bound       specs of more bytes are left out
--   state       jobs in another one are left out; empty for all
-- Returns one flat list of fields and values for each job that is there.

local found = {}
for _, id in ipairs(cjson.decode(A.ids)) do
  local request, job = both(id)
  if request and (A.state == '' or A.state == standing(request, job)) then
    found[#found + 1] = record(id, tonumber(A.bound))
  end
end
return found
