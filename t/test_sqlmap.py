"""Statements where the contract takes text: a set of our own everywhere, and sqlmap where the schema lets a quote through.

Values reach PostgreSQL as parameters of prepared calls; what there is to find is a function that builds SQL of a value.
sqlmap first has to find such a function: t/contracts/probe.sql has one.
"""

import csv
import json
import os
import re
import shutil
import subprocess
import time
import urllib.parse

import pytest

from operations import operations
from test_schemathesis import credentials
from world import World

pytestmark = pytest.mark.slow

SECONDS = 1000                  # nothing is wrong with a slow machine: this only ends what hangs
WORST = "' OR \"1\"=\"1\\"      # what a place must let through to be worth sqlmap's time
CLOSED = {"uuid", "date", "past-date", "date-time", "currency", "slug", "cursor", "hostname", "ipv4", "ipv6"}
TRIES = ["' AND 1=CAST(version() AS int)--", "'; SELECT pg_sleep(600)--", "1 OR pg_sleep(600) IS NULL", "$$;SELECT pg_sleep(600);$$",
         "\\'||pg_sleep(600)--", "') UNION SELECT NULL,version()--", "%s%n{0}%1$s\" OR \"\"=\""]
TOLD = re.compile(r"PostgreSQL \d+\.\d|syntax error|unterminated quoted", re.I)


@pytest.fixture(scope="module")
def world(shop, probes):
    shop.configure(limits=None, **probes)
    shop.stop("nginx")
    shop.start("nginx")
    return World(shop)


def is_text(op, schema):
    kind = op.resolve(schema).get("type")
    return kind == "string" or isinstance(kind, list) and "string" in kind


def opens(op, schema, value):
    """Whether the schema accepts a value with a statement at its end."""
    schema = op.resolve(schema)
    return ("enum" not in schema and "const" not in schema and schema.get("format") not in CLOSED
            and re.search(schema.get("pattern", ""), value + WORST) is not None and schema.get("maxLength", 1000) > 60)


class Request:
    """One good request of an operation, and its places for text."""

    def __init__(self, world, op, known):
        self.op = op
        self.headers = {n: v if v != "unique" else "sqlmap" for n, v in known["headers"].items()}
        self.path = dict(known["path"][0]) if known["path"] else {}
        schemas = {("path", n): s for n, s in op.named("path").items()}
        schemas |= {("query", n): s for n, s in op.named("query").items()}
        self.query = {n: world.query.get(n) or op.sample(s, n) for (where, n), s in schemas.items()
                      if where == "query" and (is_text(op, s) or n in op.required("query"))}
        body = op.body()
        self.body = op.sample(body, known={**world.members, "price": {"amount": 1000, "currency": "USD"}},
                              optional=op.member_names()) if body else None
        if isinstance(self.body, dict):
            schemas |= {("body", n): s for n, s in op.resolve(body).get("properties", {}).items() if n in self.body}
        self.places = [(where, n) for (where, n), s in schemas.items()
                       if is_text(op, s) and isinstance(getattr(self, where).get(n), str)]
        self.closed = [place for place in schemas if place not in self.places and place[0] != "body"
                       and not op.resolve(schemas[place]).get("type") == "array"]
        self.open = [(where, n) for where, n in self.places if opens(op, schemas[where, n], getattr(self, where)[n])
                     and n not in ("password", "new_password", "current_password")]

    def value(self, place):
        return getattr(self, place[0])[place[1]]

    def with_text(self, place, text):
        """Keyword arguments for httpx."""
        found = {name: dict(getattr(self, name)) for name in ("path", "query", "headers")}
        found["body"] = dict(self.body) if isinstance(self.body, dict) else self.body
        found[place[0]][place[1]] = text
        return {"method": self.op.method, "url": self.op.url(found["path"]), "params": found["query"], "headers": found["headers"],
                **({"json": found["body"]} if self.body is not None else {})}

    def marked(self, shop):
        """The request as text, with sqlmap's * behind each open value."""
        mark = {place: self.value(place) + "*" for place in self.open}
        url = self.op.url({n: self.path[n] for n in self.path})
        for (where, n) in mark:
            if where == "path":
                url = url.replace(urllib.parse.quote(self.path[n], safe=""), urllib.parse.quote(self.path[n], safe="") + "*", 1)
        query = "&".join(f"{n}={urllib.parse.quote(str(v), safe='')}{'*' if ('query', n) in mark else ''}" for n, v in self.query.items())
        lines = [f"{self.op.method} {shop.url}{url}{'?' + query if query else ''} HTTP/1.1",
                 f"Host: {self.headers.get('Host', f'127.0.0.1:{shop.port}')}"]
        lines += [f"{n}: {v}" for n, v in self.headers.items() if n != "Host"]
        body = ""
        if self.body is not None:
            body = json.dumps({n: mark.get(("body", n), v) for n, v in self.body.items()} if isinstance(self.body, dict) else self.body)
            lines.append("Content-Type: application/json")
        return "\n".join(lines) + "\n\n" + body


@pytest.fixture(scope="module")
def requests(shop, world):
    known = credentials(shop, world)
    return [Request(world, op, known[op.id]) for op in operations(shop.contract)]


HEADERS = ("User-Agent", "X-Correlation-ID", "Idempotency-Key", "X-Cart-Token", "If-Match", "traceparent", "X-API-Key", "Referer")


def test_statements_stay_text(shop, requests):
    """In everything of path and query, in texts of the body and in headers: no fault of SQL, no wait, nothing of the server in an
    answer."""
    mark, faults, count = shop.log_size(), [], 0
    with shop.edge() as edge:
        for n, r in enumerate(requests):
            tries = [(place, text) for place in r.places for text in TRIES]
            tries += [(place, text) for place in r.closed for text in TRIES[n % 3::3]]
            tries += [(("headers", name), TRIES[(n + i) % len(TRIES)]) for i, name in enumerate(HEADERS)]
            for place, text in tries:
                answer = edge.request(**r.with_text(place, text))
                count += 1
                if answer.status_code >= 500 or TOLD.search(answer.text):
                    faults.append(f"{r.op} {place} {text}: {answer.status_code} {answer.text[:200]}")
                if place in r.closed and answer.status_code < 400:
                    faults.append(f"{r.op} {place} {text}: {answer.status_code}, and it is no text")
    with shop.log_file().open("rb") as f:
        f.seek(mark)
        faults += [line for line in f.read().decode(errors="replace").splitlines() if re.search(r"SQLSTATE (22|42|XX)", line)]
    assert not faults, "\n".join(faults[:12])
    assert count > 2000


class Sqlmap:
    """One process for many requests, which it reads as a proxy's log."""

    def __init__(self, folder, name, texts):
        self.name, self.texts = name, texts
        self.csv, self.out, log = (folder / f"{name}.{kind}" for kind in ("csv", "out", "log"))
        rule = "=" * 40
        log.write_text("".join(f"{rule}\n{text}\n{rule}\n\n" for text in texts))
        with self.out.open("w") as out:
            self.process = subprocess.Popen(
                ["sqlmap", "-l", log, "--batch", "--level", "1", "--risk", "1", "--technique", "BEST", "--time-sec", "2",
                 "--dbms", "PostgreSQL", "--answers", "skip further tests=N,exploit this=N", "--ignore-stdin", "--ignore-proxy",
                 "--skip-waf", "--keep-alive", "--flush-session", "--disable-coloring", "--timeout", "30",
                 "--ignore-code", "400,401,403,404,409,410,412,415,422,428",
                 "--output-dir", folder / name, "--results-file", self.csv],
                stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, env={**os.environ, "HOME": str(folder)})

    def wait(self, seconds):
        try:
            self.process.wait(seconds)
        finally:
            self.process.kill()
        return self

    def findings(self):
        """What it says is injectable after it has tried to make use of it: (url, parameter)."""
        with self.csv.open(newline="") as f:
            return {(row["Target URL"], row["Parameter"]) for row in csv.DictReader(f)
                    if row["Technique(s)"] and "false positive" not in row["Note(s)"]}

    def tried(self):
        """How many requests it has read, and how many of their places it has been through."""
        said = self.out.read_text()
        return (said.count("testing connection to the target URL"),
                len(re.findall(r"parameter '.*' (?:does not seem to be injectable|is vulnerable)", said)))


def test_sqlmap_finds_nothing(shop, requests, tmp_path):
    if not shutil.which("sqlmap"):
        pytest.skip("needs Debian's package sqlmap")
    end = time.monotonic() + SECONDS
    chosen = [r for r in requests if r.open]
    control = [f"GET {shop.url}/api/v1/probe/unsafe?text=some* HTTP/1.1\nHost: 127.0.0.1:{shop.port}\n\n"]
    assert Sqlmap(tmp_path, "control", control).wait(SECONDS).findings(), (tmp_path / "control.out").read_text()[-2000:]

    # by method, because sqlmap tries a place of a path once, whatever the method
    runs = [Sqlmap(tmp_path, method, [r.marked(shop) for r in chosen if r.op.method == method])
            for method in sorted({r.op.method for r in chosen})]
    for run in runs:
        run.wait(max(1, end - time.monotonic()))
        assert run.tried()[0] == len(run.texts), run.out.read_text()[-2000:]
    assert sum(run.tried()[1] for run in runs) >= 0.9 * sum(len(r.open) for r in chosen) > 60

    # What changes from answer to answer may look as if a condition did it: what is true is found each time, alone, too.
    again = {url: text for run in runs for text in run.texts for url, _ in run.findings() if url.split("?")[0] in text.replace("*", "")}
    for turn in range(3):
        again = {url: text for n, (url, text) in enumerate(again.items())
                 if Sqlmap(tmp_path, f"again-{turn}-{n}", [text]).wait(max(1, end - time.monotonic())).findings()}
    assert not again, again
