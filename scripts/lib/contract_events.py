"""What api/asyncapi.yaml says of events: topics, types and consumers.

`write` makes the SQL that the database reads it from, `check` finds what fits
neither the functions of sql/consumer nor the events that functions write.
"""

import glob
import os
import re
import sys

import contract_bundle

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
CONSUMER = re.compile(r"consumer\.([a-z][a-z0-9_]*)\Z")
FUNCTION = re.compile(
    r"CREATE\s+OR\s+REPLACE\s+FUNCTION\s+consumer\.(\w+)\s*\(\s*m\s+"
    r"event\.message\s*\)", re.I)
WANTED = re.compile(
    r"CREATE\s+OR\s+REPLACE\s+FUNCTION\s+consumer\.(\w+)\s*\(\s*type\s+"
    r"text\s*\)\s*RETURNS\s+boolean", re.I)
MANY = re.compile(
    r"CREATE\s+OR\s+REPLACE\s+FUNCTION\s+consumer\.(\w+)\s*\(\s*ms\s+"
    r"event\.message\s*\[\]\s*\)", re.I)
EMIT = re.compile(r"domain\.(?:emit\(|order_emit\([^',]*,)\s*'([^']*)',"
                  r"\s*'([^']*)',")


class Message:
    def __init__(self, type_, ce_type, topic, consumers, payload):
        self.type = type_
        self.ce_type = ce_type
        self.topic = topic
        self.consumers = consumers
        self.payload = payload


def strings(value, mark, place):
    if value is None:
        return []
    if not isinstance(value, list) or \
            not all(isinstance(name, str) for name in value):
        raise contract_bundle.Fault("x-consumers must be a list of names",
                                    mark, place)
    return list(value)


def messages(path):
    """All messages of the document, in its order."""
    document = contract_bundle.read(path)
    if not str(document.get("asyncapi", "")).startswith("3."):
        raise contract_bundle.Fault("this is no AsyncAPI 3 document",
                                    (os.path.relpath(path), 1))
    found, types, ce_types = [], {}, {}
    for name, channel in document.get("channels", {}).items():
        place = f"channels.{name}"
        topic = channel.get("address", name)
        if not re.match(r"[A-Za-z0-9._-]{1,200}\Z", topic):
            raise contract_bundle.Fault("address is no name of a topic",
                                        channel.at("address"), place)
        common = strings(channel.get("x-consumers"),
                         channel.at("x-consumers"), place)
        for key, reference in (channel.get("messages") or {}).items():
            message = contract_bundle.deref(document, reference)
            where = f"{place}.{key}"
            if not message:
                raise contract_bundle.Fault("there is no such message",
                                            reference.mark, where)
            type_ = message.get("name", key)
            ce_type = message.get("x-ce-type", type_)
            own = strings(message.get("x-consumers"),
                          message.at("x-consumers"), where)
            for known, value in ((types, type_), (ce_types, ce_type)):
                if value in known:
                    raise contract_bundle.Fault(
                        f"{value} is the type of {known[value]} too",
                        message.mark, where)
                known[value] = where
            if "payload" not in message:
                raise contract_bundle.Fault("payload is missing",
                                            message.mark, where)
            for consumer in common + own:
                if not CONSUMER.match(consumer):
                    raise contract_bundle.Fault(
                        f"{consumer}: a consumer is a function of the schema "
                        "consumer", message.mark, where)
            found.append(Message(type_, ce_type, topic,
                                 list(dict.fromkeys(common + own)),
                                 message["payload"]))
    return found, document


def helpers(document, found, member):
    """Functions beside those of consumers: x-wanted says whether one wants a
    type, x-many takes many events at once."""
    names = document.get(member) or {}
    consumers = {c for m in found for c in m.consumers}
    for consumer, function in names.items():
        if consumer not in consumers:
            raise contract_bundle.Fault(f"{consumer} consumes nothing",
                                        names.at(consumer), member)
        if not isinstance(function, str) or not CONSUMER.match(function):
            raise contract_bundle.Fault(
                f"{function}: this must be a function of the schema "
                "consumer", names.at(consumer), member)
    return names


def topics(document):
    return list(dict.fromkeys(
        channel.get("address", name)
        for name, channel in document["channels"].items()))


def quote(text):
    return "'" + text.replace("'", "''") + "'"


def sql(path):
    found, document = messages(path)
    rows = ",\n           ".join(
        f"({quote(m.type)}, {quote(m.ce_type)}, {quote(m.topic)}, "
        f"{quote('{' + ','.join(m.consumers) + '}')}::text[])" for m in found)
    names = list(dict.fromkeys(c for m in found for c in m.consumers))
    branches = "\n".join(
        f"        WHEN {quote(name)} THEN PERFORM {name}(m);"
        for name in names)
    asked = "\n".join(
        f"        WHEN {quote(name)} THEN RETURN {function}(type);"
        for name, function in helpers(document, found, "x-wanted").items())
    together = "\n".join(
        f"        WHEN {quote(name)} THEN PERFORM {function}(ms);"
        for name, function in helpers(document, found, "x-many").items())
    each = """\
FOREACH m IN ARRAY ms LOOP
{0}PERFORM domain.event_context(m.tenant_id, m.correlation_id, m.traceparent);
{0}PERFORM domain.event_dispatch(consumer, m);"""
    many = f"""\
    CASE consumer
{together}
        ELSE
            {each.format(" " * 16)}
            END LOOP;
    END CASE;""" if together else f"""\
    {each.format(" " * 8)}
    END LOOP;"""
    answer = f"""\
    CASE consumer
{asked}
        ELSE RETURN true;
    END CASE;""" if asked else "    RETURN true;"
    return f"""\
-- Made by scripts/contract events of api/asyncapi.yaml: change it there.

-- Types of events, with the topic and the consumers of each.
CREATE OR REPLACE FUNCTION domain.event_types() RETURNS TABLE (type text, ce_type text, topic text, consumers text[])
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    VALUES {rows}
$$;

-- All topics, those too of which nobody here tells.
CREATE OR REPLACE FUNCTION domain.event_topics() RETURNS text[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT {quote('{' + ','.join(topics(document)) + '}')}::text[]
$$;

-- Whether a consumer wants events of a type just now, in the context of the tenant: what its function (x-wanted) says, else yes.
CREATE OR REPLACE FUNCTION domain.event_wanted(consumer text, type text) RETURNS boolean
LANGUAGE plpgsql STABLE AS $$
BEGIN
{answer}
END
$$;

-- Hands an event to a consumer.
CREATE OR REPLACE FUNCTION domain.event_dispatch(consumer text, m event.message) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    CASE consumer
{branches}
        ELSE RAISE EXCEPTION USING ERRCODE = '42883', MESSAGE = 'There is no consumer ' || consumer || ' in api/asyncapi.yaml.';
    END CASE;
END
$$;

-- Hands events of one tenant to a consumer, in their order: at once to one that takes many (x-many), else each in its own context.
CREATE OR REPLACE FUNCTION domain.event_dispatch_many(consumer text, ms event.message[]) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    m  event.message;
BEGIN
{many}
END
$$;
"""


def check(path, target):
    """Prints what is wrong; how many."""
    faults = 0

    def fault(text):
        nonlocal faults
        faults += 1
        print(text, file=sys.stderr)

    found, document = messages(path)
    defined, predicates, many = set(), set(), set()
    for name in glob.glob(os.path.join(ROOT, "sql", "consumer", "*.sql")):
        with open(name, encoding="utf-8") as stream:
            text = stream.read()
            defined |= set(FUNCTION.findall(text))
            predicates |= set(WANTED.findall(text))
            many |= set(MANY.findall(text))
    for member, there, form in (
            ("x-wanted", predicates, "type text) RETURNS boolean"),
            ("x-many", many, "ms event.message[])")):
        for consumer, function in helpers(document, found, member).items():
            if function.split(".")[1] not in there:
                fault(f"{consumer}: sql/consumer/ defines no "
                      f"{function}({form}")
    for message in found:
        for consumer in message.consumers:
            if consumer.split(".")[1] not in defined:
                fault(f"{message.type}: sql/consumer/ defines no "
                      f"{consumer}(m event.message)")
    of = {m.type: m.topic for m in found}
    for name in sorted(glob.glob(os.path.join(ROOT, "sql", "*", "*.sql"))):
        with open(name, encoding="utf-8") as stream:
            text = stream.read()
        for topic, type_ in EMIT.findall(text):
            if of.get(type_) != topic:
                fault(f"{os.path.relpath(name)}: emits {type_} to {topic}, "
                      f"api/asyncapi.yaml says {of.get(type_, 'nothing')}")
    with open(target, encoding="utf-8") as stream:
        if stream.read() != sql(path):
            fault(f"{os.path.relpath(target)} is not what the file says: "
                  "scripts/contract events > sql/domain/event_routes.sql")
    print(f"scripts/contract: {len(found)} types of events, {faults} faults")
    return 1 if faults else 0
