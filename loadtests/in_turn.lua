-- For wrk: asks for the targets of a file, one a line, in turn and over again.
local requests, number = {}, 0

function init(arguments)
    for target in io.lines(arguments[1]) do
        requests[#requests + 1] = wrk.format("GET", target)
    end
end

function request()
    number = number % #requests + 1
    return requests[number]
end
