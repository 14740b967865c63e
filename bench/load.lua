-- wrk script: sends the requests of a request file (bench/scenarios.py, pack) round robin.
--   wrk -t1 -c64 -d3s -s load.lua URL -- REQUEST_FILE
-- One JSON line goes to stdout at the end, the same as that of bench/load.py.
-- wrk counts answers of 400 and above as status errors; the warm-up before a round, done by
-- bench/load.py, is the one that insists on a 2xx with a body of the right length.

local NONCE = "@@@@nonce-here@@"
local before, after, position = {}, {}, 0
local random, format = math.random, string.format

local function read_requests(path)
   local file = assert(io.open(path, "rb"))
   local messages = {}
   for length in file:lines() do
      messages[#messages + 1] = file:read(tonumber(length))
   end
   file:close()
   return messages
end

local function with_nonce()
   position = position % #before + 1
   return before[position] .. format("%08x%08x", random(0, 2147483647), random(0, 2147483647)) .. after[position]
end

local function round_robin()
   position = position % #before + 1
   return before[position]
end

function init(args)
   math.randomseed(os.time())
   before = read_requests(args[1])
   local found = before[1]:find(NONCE, 1, true)
   if found then
      for number, message in ipairs(before) do
         local first, last = message:find(NONCE, 1, true)
         before[number], after[number] = message:sub(1, first - 1), message:sub(last + 1)
      end
      request = with_nonce
   elseif #before > 1 then
      request = round_robin
   else
      -- Without a global "request" wrk asks once and keeps the bytes: no copy of 1 MB per upload.
      wrk.format = function() return before[1] end
   end
end

function done(summary, latency, requests)
   local errors = summary.errors
   io.write(format(
      '{"requests": %d, "bytes": %d, "seconds": %.6f, "p50_us": %.1f, "p99_us": %.1f, "errors": ' ..
      '{"connect": %d, "read": %d, "write": %d, "status": %d, "timeout": %d}}\n',
      summary.requests, summary.bytes, summary.duration / 1e6,
      latency:percentile(50), latency:percentile(99),
      errors.connect, errors.read, errors.write, errors.status, errors.timeout))
end
