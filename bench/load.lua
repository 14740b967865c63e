-- wrk script: sends the requests of a request file (bench/scenarios.py, pack) round robin.
--   wrk -t1 -c64 -d3s -s load.lua URL -- REQUEST_FILE
-- One JSON line goes to stdout at the end, the same as that of bench/load.py.
-- wrk counts answers of 400 and above as status errors; the warm-up before a round, done by
-- bench/load.py, is the one that insists on a 2xx with a body of the right length.

local NONCE, SHORT_NONCE = "@@@@nonce-here@@", "@@short@"
local messages, position = {}, 0
local random, format, concat = math.random, string.format, table.concat

local function read_requests(path)
   local file = assert(io.open(path, "rb"))
   local messages = {}
   for length in file:lines() do
      messages[#messages + 1] = file:read(tonumber(length))
   end
   file:close()
   return messages
end

-- The pieces of a message between its nonces, and the places in the list that the nonces go to.
local function split(message)
   local one, start = {pieces = {}, long = {}, short = {}}, 1
   local function cut(first, last, places)
      one.pieces[#one.pieces + 1] = message:sub(start, first - 1)
      one.pieces[#one.pieces + 1] = ""
      places[#places + 1] = #one.pieces
      start = last + 1
   end
   while true do
      local long, long_end = message:find(NONCE, start, true)
      local short, short_end = message:find(SHORT_NONCE, start, true)
      if long and not (short and short < long) then
         cut(long, long_end, one.long)
      elseif short then
         cut(short, short_end, one.short)
      else
         one.pieces[#one.pieces + 1] = message:sub(start)
         return one
      end
   end
end

local function with_nonce()
   position = position % #messages + 1
   local one = messages[position]
   local value = format("%08x%08x", random(0, 2147483647), random(0, 2147483647))
   for _, place in ipairs(one.long) do one.pieces[place] = value end
   for _, place in ipairs(one.short) do one.pieces[place] = value:sub(1, 8) end
   return concat(one.pieces)
end

local function round_robin()
   position = position % #messages + 1
   return messages[position]
end

function init(args)
   math.randomseed(os.time())
   messages = read_requests(args[1])
   if messages[1]:find(NONCE, 1, true) then
      for number, message in ipairs(messages) do messages[number] = split(message) end
      request = with_nonce
   elseif #messages > 1 then
      request = round_robin
   else
      -- Without a global "request" wrk asks once and keeps the bytes: no copy of 1 MB per upload.
      wrk.format = function() return messages[1] end
   end
end

function done(summary, latency, requests)
   local errors = summary.errors
   io.write(format(
      '{"requests": %d, "bytes": %d, "seconds": %.6f, "p50_us": %.1f, "p99_us": %.1f, "p999_us": %.1f, ' ..
      '"errors": {"connect": %d, "read": %d, "write": %d, "status": %d, "timeout": %d}}\n',
      summary.requests, summary.bytes, summary.duration / 1e6,
      latency:percentile(50), latency:percentile(99), latency:percentile(99.9),
      errors.connect, errors.read, errors.write, errors.status, errors.timeout))
end
