"""A private shop for the tests: PostgreSQL, Redis and nginx of their own, through scripts/stack.

The stack lives in one folder and is started once for a run.  Each test file gets a fresh database (a copy of the
seeded one), an empty Redis and a new nginx; Stack.problems() says afterwards what a file left behind.
"""

import contextlib
import fcntl
import json
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import subprocess
import time
import uuid

import httpx
import jwt
import psycopg
import psycopg.rows
import redis

ROOT = pathlib.Path(__file__).resolve().parent.parent
MODE = os.environ.get("COMMERCE_TEST_MODE", "plain")
TEMPLATE = "commerce"
TENANTS = {"demo": 1, "acme": 2, "globex": 3}
BAD_LOG = re.compile(r"\[alert\]|\[emerg\]|\[crit\]|Sanitizer|runtime error:")


class StackError(Exception):
    pass


def wait_for(condition, seconds=10.0, what=None):
    """The first true value of condition(); it fails after so many seconds."""
    end = time.monotonic() + seconds * (3 if MODE == "asan" else 1)
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s: {what or condition.__doc__ or condition.__name__}")
        time.sleep(0.02)


RESERVED = []


def free_ports(count):
    """Ports where nobody listens and which no other run of the tests has chosen."""
    first = int(os.environ.get("COMMERCE_TEST_PORT", "28000"))
    ports = []
    for port in random.sample(range(first, first + 1000), 1000):
        with socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                s.bind(("127.0.0.1", port))
                lock = open(f"/tmp/.nginx-commerce-test.{port}", "a", encoding="ascii")
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                RESERVED.append(lock)
                ports.append(port)
        if len(ports) == count:
            return ports
    raise StackError(f"no {count} free ports from {first} on")


class Stack:
    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.conf = self.folder / "conf"
        self.database = TEMPLATE
        self.port, self.pg_port, self.redis_port = free_ports(3)
        self.url = f"http://127.0.0.1:{self.port}"
        self.allowed = []
        self.log_mark = 0
        self.edges = []

    # ---- life ----

    def run(self, *arguments, script="scripts/stack", check=True, **environment):
        done = subprocess.run(
            [str(ROOT / script), *map(str, arguments)], capture_output=True, text=True, stdin=subprocess.DEVNULL,
            env={**os.environ, "COMMERCE_RUN": str(self.folder), **environment})
        if check and done.returncode:
            raise StackError(f"{script} {' '.join(map(str, arguments))}:\n{done.stdout}{done.stderr}")
        return done

    def build(self):
        asan = MODE == "asan"
        self.objs = objs = ROOT / ("objs-asan" if asan else "objs")
        self.run(*(["--asan"] if asan else []), script="scripts/build")
        contract = self.run("bundle", script="scripts/contract").stdout
        (objs / "openapi.json").write_text(contract)
        self.contract = json.loads(contract)
        shutil.copytree(ROOT / "conf", self.conf)
        self.run("init", f"PORT={self.port}", f"PG_PORT={self.pg_port}", f"REDIS_PORT={self.redis_port}",
                 f"OBJS={objs}", f"CONF={self.conf}", "PROFILE=test")

    def seed(self):
        """The database that every test file starts from."""
        self.run("start", "postgres", "redis")
        self.run("database")
        self.pg_url = self.environment("COMMERCE_PGURL")
        self.redis_url = self.environment("COMMERCE_REDIS")
        self.run("--url", self.pg_url, script="scripts/migrate")
        self.run("password")
        self.run("accounts", script="scripts/seed")
        self.configure()
        self.start()
        self.run("catalogue", script="scripts/seed")
        self.stop("nginx")

    def environment(self, name):
        for line in self.run("env").stdout.splitlines():
            if line.startswith(f"export {name}="):
                return line.split("=", 1)[1]
        raise StackError(f"scripts/stack env does not tell {name}")

    def fresh(self, database):
        """A new file of tests: database and Redis as after the seed, nginx as in conf/."""
        self.stop("nginx")
        self.start("postgres", "redis")
        if self.database != TEMPLATE:
            with self.db("postgres") as db:
                db.execute(f'DROP DATABASE "{self.database}" WITH (FORCE)')
        self.run("database", database, TEMPLATE)
        self.database = database
        self.run("init", f"DATABASE={database}")
        self.redis().flushall()
        self.configure()
        self.allowed = []
        self.log_mark = self.log_size()
        self.start()

    def start(self, *services):
        self.run("start", *services)
        if not services or "nginx" in services:
            self.ready()

    def stop(self, *services):
        self.run("stop", *services)

    def kill(self, *services):
        self.run("kill", *services)

    def wipe(self):
        self.run("wipe")

    def ready(self, seconds=20):
        """Readiness is each worker's own: eight good answers in a row, on new connections, come from both."""
        last = None

        def ready():
            nonlocal last
            try:
                for _ in range(8):
                    last = httpx.get(f"{self.url}/health/ready", timeout=2)
                    if last.status_code != 200:
                        return False
                return True
            except httpx.HTTPError as e:
                last = e

        try:
            wait_for(ready, seconds, "GET /health/ready answers 200")
        except AssertionError as e:
            raise StackError("\n".join([str(e), getattr(last, "text", repr(last)), *self.log_lines()[-10:]])) from None

    # ---- configuration ----

    def configure(self, http="", server="", limits=False, replace=()):
        """Writes the configuration of the next start or reload.

        http, server: lines for these blocks.  limits: False lets the rates of conf/limits.conf be practically
        endless, so that tests do not throttle each other.  replace: (pattern, text) for the lines of nginx.conf;
        a pattern that does not match is an error.
        """
        for name in ("http.d", "server.d"):
            (self.folder / "nginx" / name).mkdir(parents=True, exist_ok=True)
        (self.folder / "nginx" / "http.d" / "test.conf").write_text(http + "\n")
        (self.folder / "nginx" / "server.d" / "test.conf").write_text(server + "\n")
        for name in ("nginx.conf", "limits.conf"):
            text = (ROOT / "conf" / name).read_text()
            if name == "limits.conf" and not limits:
                text = re.sub(r"rate=\S+(\s+)burst=\d+", r"rate=100000r/s\1burst=100000", text)
            if name == "nginx.conf":
                for pattern, by in replace:
                    text, count = re.subn(pattern, by, text)
                    assert count, f"conf/nginx.conf has nothing like {pattern}"
            (self.conf / name).write_text(text)

    @contextlib.contextmanager
    def configured(self, **changes):
        """Runs the block under another configuration, with a new nginx before and after."""
        self.configure(**changes)
        try:
            self.stop("nginx")
            self.start("nginx")
            yield self
        finally:
            self.stop("nginx")
            self.configure()
            self.start("nginx")

    def check_conf(self):
        return self.run("conf", check=False)

    # ---- nginx ----

    def master(self):
        return int((self.folder / "nginx" / "nginx.pid").read_text())

    def workers(self, leaving=False):
        """Pids of the workers that serve; with leaving, those too that only finish what they have."""
        pids = []
        for pid in pathlib.Path(f"/proc/{self.master()}/task/{self.master()}/children").read_text().split():
            with contextlib.suppress(OSError):
                title = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
                if b"worker process" in title and (leaving or b"shutting down" not in title):
                    pids.append(int(pid))
        return sorted(pids)

    def reload(self, wait=True):
        before = set(self.workers())
        self.run("reload")
        if wait:
            wait_for(lambda: len(set(self.workers()) - before) == 2 and not before & set(self.workers()), 20,
                     "two new workers serve, the old ones leave")
        return before

    def kill_worker(self, index=0, sign=signal.SIGKILL):
        """Ends a worker; returns when the master has a new one in its place."""
        pid = self.workers()[index]
        self.expect_log(rf"worker process {pid} exited on signal {int(sign)}")
        self.expect_log(r"shared memory zone .* was locked by %d" % pid)
        os.kill(pid, sign)
        wait_for(lambda: pid not in self.workers() and len(self.workers()) == 2, 10, "a new worker")
        return pid

    # ---- independent eyes ----

    def db(self, database=None, **options):
        url = self.pg_url.rsplit("/", 1)[0] + "/" + (database or self.database)
        return psycopg.connect(url, autocommit=True, row_factory=psycopg.rows.dict_row, **options)

    def rows(self, query, *parameters):
        with self.db() as db:
            return db.execute(query, parameters or None).fetchall()

    def value(self, query, *parameters):
        row = self.rows(query, *parameters)[0]
        return next(iter(row.values()))

    def redis(self):
        return redis.Redis.from_url(self.redis_url, decode_responses=True)

    def flush_redis(self):
        self.redis().flushall()

    # ---- clients ----

    def edge(self, email=None, tenant=None, token=None, password="password", **options):
        """A client of the API.  With email it is logged in; the token is signed here unless password is asked."""
        edge = Edge(self, tenant, **options)
        self.edges.append(edge)
        if email:
            edge.login(email, password)
        if token:
            edge.headers["Authorization"] = f"Bearer {token}"
        return edge

    def user(self, email="test@example.com", tenant="demo", **options):
        """Logged in without the cost of bcrypt: the token is signed here with the shop's key."""
        row = self.rows("SELECT id, roles || permissions AS roles FROM shop.app_user WHERE tenant_id = %s "
                        "AND lower(email) = lower(%s) AND deleted_at IS NULL", TENANTS[tenant], email)
        assert row, f"no user {email} in {tenant}"
        token = self.token(row[0]["id"], row[0]["roles"], TENANTS[tenant])
        edge = self.edge(tenant=tenant, token=token, **options)
        edge.user_id = str(row[0]["id"])
        return edge

    def staff(self, tenant="demo", **options):
        return self.user("admin@example.com", tenant, **options)

    def token(self, subject, roles=("customer",), tenant_id=1, key=None, headers=None, **claims):
        now = int(time.time())
        body = {
            "iss": "nginx-commerce", "aud": "nginx-commerce", "sub": str(subject), "tid": str(tenant_id),
            "sid": str(uuid.uuid4()), "jti": str(uuid.uuid4()), "iat": now, "nbf": now, "exp": now + 600,
            "roles": [r for r in roles if "." not in r], "scope": " ".join(r for r in roles if "." in r),
        }
        body.update(claims)
        body = {name: value for name, value in body.items() if value is not None}
        key = key or (self.folder / "secrets" / "jwt").read_text().strip()
        return jwt.encode(body, key, algorithm="HS256", headers={"typ": "at+jwt", "kid": "k1", **(headers or {})})

    def customers(self, count, tenant="demo"):
        """So many customers of their own for tests with crowds: their clients' tokens, by e-mail."""
        rows = self.rows(
            "SELECT domain.user_put(%s::bigint, 'crowd' || i || '@example.com', '', 'Crowd ' || i)::text AS id "
            "FROM generate_series(1, %s::int) i ORDER BY i", TENANTS[tenant], count)
        return [(row["id"], self.token(row["id"], tenant_id=TENANTS[tenant])) for row in rows]

    def raw(self, data, timeout=5.0, finish=False):
        """Sends bytes as they are and returns what comes back until the server closes or falls silent."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout) as s:
            s.sendall(data)
            if finish:
                s.shutdown(socket.SHUT_WR)
            answer = b""
            with contextlib.suppress(TimeoutError, ConnectionResetError):
                while chunk := s.recv(65536):
                    answer += chunk
                    if complete(answer):
                        break
            return answer

    # ---- what a file of tests leaves behind ----

    def log_size(self):
        log = self.folder / "logs" / "error.log"
        return log.stat().st_size if log.exists() else 0

    def log_lines(self):
        log = self.folder / "logs" / "error.log"
        with log.open("rb") as f:
            f.seek(self.log_mark)
            return f.read().decode(errors="replace").splitlines()

    def expect_log(self, pattern):
        """A line of error.log that the test provokes and that is right to be there."""
        self.allowed.append(re.compile(pattern))

    def bad_log_lines(self):
        return [line for line in self.log_lines()
                if BAD_LOG.search(line) and not any(a.search(line) for a in self.allowed)]

    def sockets(self):
        """Open sockets of the workers: (pid, local port, remote port, state)."""
        table = {}
        for line in pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:]:
            field = line.split()
            table[field[9]] = (int(field[1].split(":")[1], 16), int(field[2].split(":")[1], 16), field[3])
        found = []
        for pid in self.workers(leaving=True):
            with contextlib.suppress(OSError):
                for fd in os.scandir(f"/proc/{pid}/fd"):
                    with contextlib.suppress(OSError):
                        m = re.match(r"socket:\[(\d+)\]", os.readlink(fd.path))
                        if m and m[1] in table:
                            found.append((pid, *table[m[1]]))
        return found

    def leftovers(self):
        """Connections that should not be there when every client has gone."""
        listening = "0A"
        held = [s for s in self.sockets() if s[1] == self.port and s[3] != listening]
        faults = [f"worker {pid} holds a client's connection, state {state}" for pid, _, _, state in held]
        with self.db() as db:
            for row in db.execute("SELECT pid, state, query FROM pg_stat_activity WHERE usename = 'commerce_edge' "
                                  "AND datname = current_database() AND state <> 'idle'"):
                faults.append(f"PostgreSQL {row['pid']} is {row['state']}: {row['query']}")
        return faults

    def problems(self):
        """The checks after every file of tests.  Stops nginx, which makes it report leaked sockets."""
        for edge in self.edges:
            edge.close()
        self.edges = []
        faults = []
        if self.run("status", "nginx", check=False).returncode:
            faults.append("nginx is gone")
        else:
            if len(self.workers()) != 2:
                faults.append(f"{len(self.workers())} workers serve instead of 2")
            try:
                wait_for(lambda: not self.leftovers(), 5)
            except AssertionError:
                faults += self.leftovers()
        self.stop("nginx")
        faults += self.bad_log_lines()
        return faults


def complete(answer):
    """One whole HTTP/1.1 answer with a Content-Length."""
    head, blank, body = answer.partition(b"\r\n\r\n")
    m = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
    return bool(blank and m and len(body) >= int(m[1]))


class Edge(httpx.Client):
    """A client of the API as one user of one tenant."""

    def __init__(self, stack, tenant=None, **options):
        options.setdefault("timeout", 30 if MODE == "asan" else 10)
        options.setdefault("verify", False)     # no TLS here, and reading the certificates costs 20 ms a client
        super().__init__(base_url=stack.url, **options)
        self.stack = stack
        self.user_id = None
        if tenant:
            self.headers["Host"] = f"{tenant}.localhost"

    def login(self, email, password="password"):
        answer = self.post("/api/v1/auth/login", json={"email": email, "password": password})
        assert answer.status_code == 200, answer.text
        self.headers["Authorization"] = f"Bearer {answer.json()['token']}"
        self.user_id = answer.json()["user"]["id"]
        return answer.json()
