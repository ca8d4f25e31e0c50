-- Load for wrk: POST /next of sessions, track by track. wrk -t1 -s sessions.lua <address> -- <file> <first user>
-- A line of the file is "<session> <track> <share>"; a session is a number, or the id of a user that is a text, and a
-- track is an id as JSON. Prints one line of JSON at the end.

local threads = {}

function setup(thread)
   threads[#threads + 1] = thread
end

function init(args)
   lines, host, sent = {}, wrk.host .. ":" .. wrk.port, -1 -- wrk asks for a first request that it does not send
   for session, track, share in io.open(args[1]):read("*a"):gmatch("(%S+) (%S+) ([%d.]+)\n") do
      local number = tonumber(session)
      local body = string.format('{"track": %s, "time": %s}', track, share)
      lines[#lines + 1] = string.format(
         "POST /next/%s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
         number and string.format("%.0f", tonumber(args[2]) + number) or session, host, #body, body
      )
   end
end

function request()
   sent = sent + 1
   return lines[math.max(sent - 1, 0) % #lines + 1]
end

function done(summary, latency)
   local errors = summary.errors
   print(string.format(
      '{"sent": %d, "answered": %d, "seconds": %.6f, "p50_ms": %.3f, "p99_ms": %.3f, "failed": %d}',
      threads[1]:get("sent"), summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3,
      latency:percentile(99) / 1e3, errors.status + errors.connect + errors.read + errors.write + errors.timeout
   ))
end
