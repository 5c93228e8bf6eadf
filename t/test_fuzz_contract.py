"""Hostile input for every operation, made from its schemas: refused with a problem document, no trace in the data, no fault of SQL.

A SQLSTATE of class 22, 23, 42 or XX in error.log, or the answer `invalid-value` or `conflict` that it becomes, says that the
contract lacks a bound or a function a check.
"""

import json
import os
import random
import re
import subprocess

import pytest

from operations import Picture, changes, operations
from stack import ROOT
from world import World

SEED = int(os.environ.get("COMMERCE_TEST_SEED", "20260101"))
MAX_CASES = 60              # of an operation
SQL_FAULT = re.compile(r"SQLSTATE (22|23|42|XX|2F|0A|P0|54)")
SQL = ["'", "' OR '1'='1", "1; DROP TABLE shop.orders; --", "\\", "%", "$1", "{1,2}", "NULL", "${jndi:x}", "$$", "<script>"]
TEXTS = ["", " ", "\t", "\u200b", "\u202e", "\U0001f600" * 20, "é" * 10, "A" * 300, "x" * 5000, "../../etc/passwd", "-1",
         "0", "1e400", "NaN", "Infinity", "9223372036854775807", "9223372036854775808", "99999999999999999999", "0x10", "1.5", "+1", "01", "true",
         "2024-02-30", "0000-00-00", "9999-12-31", "infinity", "epoch", "today", "00000000-0000-0000-0000-000000000000", *SQL]
NUMBERS = ["0", "-1", "-0", "1.5", "1e2", "1e400", "-1e400", "1E-400", "2147483647", "2147483648", "9007199254740991",
           "9007199254740992", "9007199254740993", "9223372036854775807", "9223372036854775808", "99999999999999999999999999999999"]
# what the module says when PostgreSQL refuses a value or a row that a function let pass
TABLE = (ROOT / "ngx_commerce_module/http/ngx_commerce_call.c").read_text()
POSTGRES = re.findall(r'"2[23]\w{3}", 4\d\d, "[a-z-]+", \d, \w+,\s+"([^"]+)"', TABLE)
RAW = ["null", "true", "[]", "{}", "[[[]]]", '"text"', '""', "[null]", '{"a":{"b":[1,2]}}']
BROKEN = [
    b"", b" ", b"{", b"}", b"[", b"nul", b"{}{}", b"{} x", b"\xef\xbb\xbf{}", b'{"a":1,}', b"{'a':1}", b'{"a":01}', b'{"a":+1}',
    b'{"a":.5}', b'{"a":NaN}', b'{"a":"\x01"}', b'{"a":"\xff"}', b'{"a":"\xc0\xaf"}', b'{"a":"\xed\xa0\x80"}',
    b'{"a":"\\ud800"}', b'{"a":"\\udc00\\ud800"}', b'{"a":"\\u0000"}', b'{"a":"\\x41"}', b'{"a":1,"a":2}', b'{"a":1,"\\u0061":2}',
    b"[" * 40 + b"]" * 40, b'{"a":' * 40 + b"1" + b"}" * 40, b"[" * 30000, b'{"a":"' + b"x" * 400000 + b'"}',
    b"[" + b"1," * 2000 + b"1]", b"\x00", b"{\x00}", b"//\n{}", b"\xfe\xff\x00{\x00}"]


class Literal(str):
    """JSON text that json.dumps would not write."""


def dumps(value):
    if isinstance(value, Literal):
        return str(value)
    if isinstance(value, dict):
        return "{" + ",".join(json.dumps(k) + ":" + dumps(v) for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(dumps, value)) + "]"
    return json.dumps(value)


def places(value, at=()):
    """The address of every member and element, the whole included."""
    yield at
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, child in children:
        yield from places(child, (*at, name))


def put(value, at, new):
    if not at:
        return new
    if isinstance(value, dict):
        return {k: put(v, at[1:], new) if k == at[0] else v for k, v in value.items()}
    return [put(v, at[1:], new) if i == at[0] else v for i, v in enumerate(value)]


def find(value, at):
    for step in at:
        value = value[step]
    return value


def bodies(rng, op, world):
    """Bodies as bytes: wrong at one place each, or not JSON at all."""
    schema = op.body()
    known = {**world.members, "price": {"amount": 1000, "currency": "USD"}}
    whole = op.sample(schema, known=known, optional=op.member_names())
    for at in places(whole):
        for text in [*RAW, *NUMBERS, *(json.dumps(t) for t in TEXTS)]:
            yield dumps(put(whole, at, Literal(text))).encode()
        there = find(whole, at)
        if isinstance(there, dict):
            for name in ("surplus", "__proto__", "tenant_id", "id", "price", "user_id", "", "a" * 300, "é", "$principal"):
                if name not in there:
                    yield dumps(put(whole, at, {**there, name: Literal("1")})).encode()
            for name in there:
                yield dumps(put(whole, at, {k: v for k, v in there.items() if k != name})).encode()
        if isinstance(there, list):
            yield dumps(put(whole, at, there * 300)).encode()
            yield dumps(put(whole, at, there * 2)).encode()
        if isinstance(there, str):
            yield dumps(put(whole, at, Literal('"' + "y" * 30000 + '"'))).encode()
            yield dumps(put(whole, at, Literal('"a\\u0000b"'))).encode()
            yield dumps(put(whole, at, Literal('"\\ud83d"'))).encode()


def cases(op, world):
    """Keyword arguments for httpx: at most MAX_CASES, the same for a seed; all kinds of places in turn."""
    rng = random.Random(f"{SEED} {op.id}")
    values = world.path_values(op)[0]
    names = op.named("query")
    query = {n: world.query.get(n) or op.sample(names[n], n) for n in op.required("query")}
    headers = {"If-Match": '"1"'} if ("header", "If-Match") in op.parameters else {}
    keyed = op.edge.get("idempotency", "none") == "required"
    # a whole path is one segment to the router when it is percent-encoded
    text = [t for t in TEXTS + NUMBERS if t not in ("", " ")]
    schema = op.body()
    good = json.dumps(op.sample(schema, known={**world.members, "price": {"amount": 1000, "currency": "USD"}})).encode() \
        if schema else None

    def base(**changes):
        request = {"method": op.method, "url": op.url(values), "params": query,
                   "headers": {**headers, **({"Idempotency-Key": f"fuzz-{rng.random()}"} if keyed else {})}}
        if op.content:
            request["headers"]["Content-Type"] = next(iter(op.content))
            request["content"] = good if good is not None else b"id,sku,name,price\n1,2,3,x\n"
        request["headers"].update(changes.pop("headers", {}))
        return {**request, **changes}

    groups = []
    if values:
        groups.append([base(url=op.url({**values, name: t})) for name in values for t in text])
    if names:
        groups.append([base(params={**query, name: t}) for name in names for t in TEXTS + NUMBERS]
                      + [base(params={**query, name: [t, "1"]}) for name in names for t in ("1", "'")])
    groups.append([base(params={**query, name: "1"}) for name in ("surplus", "tenant_id", "$principal", "select", "a[b]", "x'y")]
                  + [base(url=op.url(values) + "?" + raw)
                     for raw in ("%", "%zz", "a=%00", "a=%ff", "=", "&&&", "a" * 3000, "%c0%af=1")])
    taken = [n for (where, n) in op.parameters if where == "header"]
    groups.append([base(headers={n: t}) for n in [*taken, "X-Cart-Token", "If-None-Match", "X-Correlation-ID", "traceparent"]
                   for t in ["'", "*", '"', '""', 'W/"1"', "x" * 500, '"99999999999999999999"', '"-1"', "1", "a b", "\x7f", "%00"]])
    if schema:
        made = [base(content=b) for b in bodies(rng, op, world)]
        rng.shuffle(made)
        groups += [made, [base(content=b) for b in BROKEN], [made[i] for i in range(1, len(made), 2)]]
    elif op.content:
        groups.append([base(content=b) for b in (
            b"", b"\x00", b"\xff\xfe", b'"', b'a"b,c\n"', b"id,name,price\n" + b"x" * 70000, b"name,name,price\n1,2,3\n",
            b"name,price\n" + b"a,1e400\n" * 20, b"\xef\xbb\xbfname,price\na,1")])
    if op.content:
        groups.append([base(headers=h) for h in (
            {"Content-Type": "text/plain"}, {"Content-Type": "application/xml"},
            {"Content-Type": "application/json; charset=latin1"},
            {"Content-Type": "multipart/form-data; boundary=x"}, {"Content-Encoding": "gzip"}, {"Content-Encoding": "br"},
            {"Content-Type": "application/json" * 20}, {"Content-Type": ""})])
    for group in groups:
        rng.shuffle(group)
    found = []
    while len(found) < MAX_CASES and any(groups):
        for group in groups:
            if group:
                found.append(group.pop())
    return found[:MAX_CASES]


@pytest.fixture(scope="module")
def world(quiet):
    return World(quiet)


@pytest.fixture(scope="module")
def picture(shop):
    picture = Picture(shop)
    yield picture
    picture.close()


@pytest.fixture(scope="module")
def senders(shop, world):
    """Who may ask for each kind of operation, so that input is looked at and not refused before."""
    found = {"staff": shop.staff(), "customer": shop.edge(token=world.other), "optional": shop.edge(token=world.other),
             "public": shop.edge(), "platform": shop.user("platform@example.com", "platform")}
    yield found
    for edge in found.values():
        edge.close()


def fault(answer):
    """What is wrong with an answer to hostile input, or None."""
    status, kind = answer.status_code, answer.headers.get("content-type", "")
    if status >= 500:
        return f"{status}"
    if status >= 400:
        if kind != "application/problem+json":
            return f"{status} as {kind}"
        problem = answer.json()
        if problem["status"] != status or not problem["code"] or not problem["correlation_id"]:
            return "an incomplete problem document"
        if problem.get("detail") in POSTGRES:
            return f"PostgreSQL had to refuse it: {problem['code']}"
    return None


def show(request):
    body = request.get("content")
    return (f"{request['method']} {request['url'][:150]} {str(request['params'])[:150]} {str(request['headers'])[:200]} "
            f"{body[:400] if body else ''}")


def ids(contract):
    return [op.id for op in operations(contract)]


def pytest_generate_tests(metafunc):
    """One test for each operation, read without the stack: collecting starts nothing."""
    if "operation_id" in metafunc.fixturenames:
        bundle = subprocess.run([ROOT / "scripts/contract", "bundle"], capture_output=True, text=True, check=True).stdout
        metafunc.parametrize("operation_id", ids(json.loads(bundle)))


def test_hostile_input(shop, world, picture, senders, operation_id):
    op = next(o for o in operations(shop.contract) if o.id == operation_id)
    edge = senders[op.auth.partition(":")[0]]
    mark, before = shop.log_size(), picture.sums()
    faults, counts, refused = [], {}, []

    def ask(request):
        answer = edge.request(**request)
        counts[answer.status_code] = counts.get(answer.status_code, 0) + 1
        why = fault(answer)
        if why:
            faults.append(f"{why}: {show(request)} -> {answer.text[:300]}")
        if answer.status_code >= 400 or op.method == "GET":
            refused.append(request)
        return answer.status_code

    for request in cases(op, world):
        ask(request)
    if op.method != "GET" and len(refused) < sum(counts.values()):
        # some were accepted and changed something: those that were not, again, by themselves
        before, again = picture.sums(), refused[:]
        refused.clear()
        for request in again:
            if ask(request) < 400:
                before = picture.sums()
                refused.clear()
    changed = changes(before, picture.sums())
    assert not changed, f"{changed} by one of {len(refused)} that were refused: {[show(r) for r in refused[-5:]]}"
    with (shop.folder / "logs" / "error.log").open("rb") as f:
        f.seek(mark)
        lines = f.read().decode(errors="replace").splitlines()
    faults += [line for line in lines if SQL_FAULT.search(line) or re.search(r"\[(error|crit|alert|emerg)\]", line)]
    assert not faults, f"seed {SEED}, answers {counts}:\n" + "\n".join(faults[:12])
    assert sum(counts.values()) >= 10
    assert any(status >= 400 for status in counts) or not op.has_tenant, counts
