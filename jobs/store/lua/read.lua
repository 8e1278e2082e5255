-- Read the records of some jobs.
--
-- KEYS
--   request     r
--   job         r
-- ARGV
--   ids         JSON list
--   bound       specs of more bytes are left out
-- Returns one flat list of fields and values for each job that is there.

local found = {}
for _, id in ipairs(cjson.decode(A.ids)) do
  local fields = record(id, tonumber(A.bound))
  if fields then found[#found + 1] = fields end
end
return found
