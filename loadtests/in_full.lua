-- For wrk: prints what it knows at the end of a run as one line of JSON. Times in microseconds.
local WANTED = {90, 99, 99.9}

-- As loadtests.story.percentiles_of: half of what is left in four steps, down to one in 16,384.
for step = 0, 14 * 4 do
    WANTED[#WANTED + 1] = 100 * (1 - 0.5 ^ (step / 4))
end

function done(summary, latency, requests)
    local failed, percentiles = summary.errors, {}
    for _, percent in ipairs(WANTED) do
        percentiles[#percentiles + 1] = string.format(
            "[%.6f, %d]", percent, percent == 0 and latency.min or latency:percentile(percent))
    end
    percentiles[#percentiles + 1] = string.format("[100, %d]", latency.max)
    io.write(string.format(
        'in full: {"answers": %d, "us": %d, "bytes": %d, "connect": %d, "read": %d, "write": %d, '
            .. '"not 2xx": %d, "timeout": %d, "mean": %.3f, "percentiles": [%s]}\n',
        summary.requests, summary.duration, summary.bytes, failed.connect, failed.read,
        failed.write, failed.status, failed.timeout, latency.mean,
        table.concat(percentiles, ", ")))
end
