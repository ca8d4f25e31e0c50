-- Load for wrk: POST /next of any user after any track. wrk -s bench.lua <address> -- <number of tracks> <number of users> <seed>
-- One thread (-t1): what is counted here is counted once. Prints one line of JSON at the end.

local threads = {}

function setup(thread)
   threads[#threads + 1] = thread
end

function init(args)
   num_tracks, num_users = tonumber(args[1]), tonumber(args[2])
   math.randomseed(tonumber(args[3]))
   host = wrk.host .. ":" .. wrk.port
   sent = -1 -- wrk asks for a first request to look at, which it does not send
end

function request() -- written out, since wrk.format costs as much as all the rest of wrk
   sent = sent + 1
   local body = string.format('{"track": %d, "time": %.2f}', math.random(0, num_tracks - 1), math.random())
   return string.format(
      "POST /next/%d HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
      math.random(0, num_users - 1), host, #body, body
   )
end

function done(summary, latency)
   local errors = summary.errors
   print(string.format(
      '{"sent": %d, "answered": %d, "seconds": %.6f, "p50_ms": %.3f, "p99_ms": %.3f, "max_ms": %.3f, '
      .. '"not_2xx": %d, "broken": %d}',
      threads[1]:get("sent"), summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3,
      latency:percentile(99) / 1e3, latency.max / 1e3, errors.status,
      errors.connect + errors.read + errors.write + errors.timeout
   ))
end
