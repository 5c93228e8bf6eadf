-- Prelude of scripts that answer requests: arguments, problems, idempotency.
--
-- KEYS[1] the key, KEYS[2] the idempotency record's key or ''
-- ARGV[1] arguments (JSON), ARGV[2] the miss call's document or '',
-- ARGV[3] idempotency key or '', ARGV[4] fingerprint

local KEY = KEYS[1]
local null = cjson.null
local REPLAY_SECONDS = 86400

local function problem(status, code, detail, extension)
    return { 'problem', status, code, detail, extension or '{}' }
end

-- cjson writes numbers with 14 digits; ids and amounts need 16.
local function int(number)
    return string.format('%.0f', number)
end

local function text(value)
    if value == nil or value == null then
        return 'null'
    end
    return cjson.encode(value)
end

-- The first answer of an idempotent call: "fingerprint status body".
local function replayed()
    if ARGV[3] == nil or ARGV[3] == '' then
        return nil
    end

    local record = redis.call('GET', KEYS[2])
    if not record then
        return nil
    end

    local fingerprint, status, body =
        string.match(record, '^(%S*) (%d+) (.*)$')

    if fingerprint ~= ARGV[4] then
        return problem(422, 'idempotency-key-reused',
            'This Idempotency-Key came with another request before')
    end
    return { 'replay', tonumber(status), body }
end

-- Answers and, with an idempotency key, keeps the answer with its effect.
local function ok(status, body, document)
    if ARGV[3] ~= nil and ARGV[3] ~= '' then
        redis.call('SET', KEYS[2], ARGV[4] .. ' ' .. status .. ' ' .. body,
            'EX', REPLAY_SECONDS)
    end
    return { 'ok', status, body, document or '' }
end
