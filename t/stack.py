"""A private shop for the tests: PostgreSQL, Redis and nginx of their own, through scripts/stack.

The stack lives in one folder and is started once for a run.  Each test file gets a fresh database (a copy of the
seeded one), an empty Redis and a new nginx; Stack.problems() says afterwards what a file left behind.
"""

import contextlib
import fcntl
import itertools
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

import httpcore
import httpx
import jwt
import psycopg
import psycopg.rows
import redis

ROOT = pathlib.Path(__file__).resolve().parent.parent
MODE = os.environ.get("COMMERCE_TEST_MODE", "plain")
# how much longer than alone things may take beside others on a small machine
SLOW = 12 if MODE == "asan" else 6
TEMPLATE = "commerce"
# bcrypt of "password", cost 10: for accounts whose logins a test need not wait for
CHEAP = "$2b$10$abcdefghijklmnopqrstuu5Lo0g67CiD3M4RpN1BmBb4Crp5w7dbK"
TENANTS = {"demo": 1, "acme": 2, "globex": 3, "platform": 4}
# jobs that run for files with JOBS = (name,) only: others look at rows before anybody has sent what they tell of
QUIET = {"notifications", "webhooks"}
BAD_LOG = re.compile(r"\[alert\]|\[emerg\]|\[crit\]|Sanitizer|runtime error:")


# lines of conf/nginx.conf, and what stands for their deadlines when a test is not about those
PATIENT = (
    (r"commerce_postgres\s+read[^;]*(statement_timeout=\w+ timeout=\w+)", "statement_timeout=30s timeout=40s"),
    (r"commerce_postgres\s+write[^;]*(lock_timeout=\w+ statement_timeout=\w+ timeout=\w+)",
     "lock_timeout=20s statement_timeout=30s timeout=40s"),
    (r"commerce_redis\s+[^;]*(timeout=\w+;)", "timeout=20s;\n    commerce_limit_redis_timeout  20s;"),
)


class StackError(Exception):
    pass


def wait_for(condition, seconds=10.0, what=None):
    """The first true value of condition().  It fails after so many seconds, of a machine that has nothing else to do."""
    end = time.monotonic() + seconds * SLOW
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s: {what or condition.__doc__ or condition.__name__}")
        time.sleep(0.02)


@contextlib.contextmanager
def frozen(pids):
    """Stops processes for the block, so that whatever asks them waits.  One that has ended by then does not matter."""
    def tell(sign):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, sign)

    try:
        tell(signal.SIGSTOP)
        yield
    finally:
        tell(signal.SIGCONT)


def limit_files(pid, soft):
    """How many descriptors a process may have from now on; as its own user, who may say so without privileges."""
    ids = re.findall(r"^[UG]id:\s+(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text(), re.M)
    subprocess.run(["prlimit", f"--pid={pid}", f"--nofile={soft}:"], check=True, user=int(ids[0]), group=int(ids[1]))


def files_limit(pid):
    return int(re.search(r"^Max open files\s+(\d+)", pathlib.Path(f"/proc/{pid}/limits").read_text(), re.M)[1])


@contextlib.contextmanager
def frozen_postgres(shop):
    """PostgreSQL takes connections and says nothing.  Who starts its processes stops first, so that none is new among them; from then
    on it buries none either: each number is of one that is there until it goes on, the last of all."""
    pid = int((shop.folder / "postgres" / "postmaster.pid").read_text().split()[0])
    process = pathlib.Path(f"/proc/{pid}")
    with frozen([pid]):
        wait_for(lambda: (process / "stat").read_text().rsplit(") ", 1)[1][0] == "T", 10, "PostgreSQL stands still")
        with frozen([int(child) for child in (process / "task" / str(pid) / "children").read_text().split()]):
            yield


SOURCES = itertools.count(1)


def source_address():
    """A loopback address that no other client of this run has: limits per address stay on, and each test has its own."""
    n = next(SOURCES)
    return f"127.{10 + n // 62500 % 200}.{n // 250 % 250}.{1 + n % 250}"


RESERVED = []


def reserve(port):
    """Whether nobody listens there and no other run of the tests has chosen it: then it is ours."""
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):
            s.bind(("127.0.0.1", port))
            lock = open(f"/tmp/.nginx-commerce-test.{port}", "a", encoding="ascii")
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            RESERVED.append(lock)
            return True
    return False


def free_ports(count, with_next=False):
    """Ports of nobody else; with_next: the one behind each, too, for a program that takes both."""
    first = int(os.environ.get("COMMERCE_TEST_PORT", "28000"))
    ports = []
    for port in random.sample(range(first, first + 1000), 1000):
        if reserve(port) and (not with_next or reserve(port + 1)):
            ports.append(port)
        if len(ports) == count:
            return ports
    raise StackError(f"no {count} free ports from {first} on")


# for replace: a test that names a mail server of its own
NO_MAIL = [(r"commerce_mail_server\s[^;]*;", "")]


class Stack:
    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.conf = self.folder / "conf"
        self.database = TEMPLATE
        self.port, self.pg_port, self.redis_port, self.mail_port, self.mail_page_port = free_ports(5)
        self.url = f"http://127.0.0.1:{self.port}"
        self.allowed = []
        self.log_mark = 0
        self.edges = []
        self.jobs = set()

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
        # as a whole: the stack of another run may be reading it
        made = objs / f".openapi.json.{os.getpid()}"
        made.write_text(contract)
        made.replace(objs / "openapi.json")
        self.contract = json.loads(contract)
        shutil.copytree(ROOT / "conf", self.conf)
        self.run("init", f"PORT={self.port}", f"PG_PORT={self.pg_port}", f"REDIS_PORT={self.redis_port}",
                 f"MAIL_PORT={self.mail_port}", f"MAIL_PAGE_PORT={self.mail_page_port}",
                 f"OBJS={objs}", f"CONF={self.conf}", "PROFILE=test")

    def seed(self):
        """The database that every test file starts from."""
        self.run("start", "postgres", "redis", "mail")
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
        # a file that starts Redis anew has not the carts of the one before
        (self.folder / "redis" / "dump.rdb").unlink(missing_ok=True)
        for folder in ("tables", "models"):
            for made in (self.folder / folder).iterdir():
                made.unlink()
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
        """Readiness is each worker's own, so that each is asked: both lanes of PostgreSQL and the tenants are known to it."""
        last = None

        def ready():
            nonlocal last
            try:
                # the first answers without asking who it was: a master whose workers are not there yet has none to be listed
                for _ in range(8):
                    last = httpx.get(f"{self.url}/health/ready", timeout=20)
                    if last.status_code != 200:
                        return False
                with self.each_worker() as edges:
                    for edge in edges.values():
                        last = edge.get("/health/ready")
                        if last.status_code != 200:
                            return False
                return True
            except (httpx.HTTPError, OSError) as e:
                last = e

        try:
            wait_for(ready, seconds, "GET /health/ready answers 200")
        except AssertionError as e:
            raise StackError("\n".join([str(e), getattr(last, "text", repr(last)), *self.log_lines()[-10:]])) from None

    # ---- configuration ----

    def configure(self, http="", server="", limits=False, shed=False, deadlines=False, jobs=True, replace=()):
        """Writes the configuration of the next start or reload.

        http, server: lines for these blocks.  limits: True: conf/limits.conf as it is.  False: what counts by user or tenant
        is practically endless, so that a test may do more than a person does; limits by address stay, because each client
        has its own.  None: all of them are endless, for load from one address.  shed: lanes refuse whom they would let wait
        for long, as in conf/; otherwise only when their queues are full, for on a slow machine every crowd is an overload.
        deadlines: PostgreSQL and Redis are given up as soon as in conf/; otherwise much later, for a slow machine is not a dead one.
        jobs: False: without those of conf/jobs.conf (see QUIET, too), for a test that calls their functions itself.
        replace: (pattern, text) for the lines of nginx.conf; a pattern that does not match is an error.
        """
        for name in ("http.d", "server.d"):
            (self.folder / "nginx" / name).mkdir(parents=True, exist_ok=True)
        (self.folder / "nginx" / "http.d" / "test.conf").write_text(http + "\n")
        (self.folder / "nginx" / "server.d" / "test.conf").write_text(server + "\n")
        for name in ("nginx.conf", "limits.conf", "jobs.conf"):
            text = (ROOT / "conf" / name).read_text()
            if name == "jobs.conf":
                for quiet in QUIET - self.jobs:
                    text = re.sub(rf"commerce_job\s+{quiet}\s[^;]*;", "", text)
                text = text if jobs else ""
            if name == "limits.conf" and not limits:
                kept = r"(?!\s|ip\b|login\b)" if limits is False else ""
                text = re.sub(rf"(commerce_limit_policy\s+{kept}.*?)rate=\S+(\s+)burst=\d+",
                              r"\1rate=1000r/s\2burst=100000", text)
            if name == "nginx.conf":
                if not shed:
                    text = re.sub(r" wait=\w+", " wait=10m", text)
                if not deadlines:
                    for line, timeouts in PATIENT:
                        text, count = re.subn(line, lambda m, t=timeouts: m[0].replace(m[1], t), text)
                        assert count == 1, f"conf/nginx.conf has nothing like {line}"
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
        # a master that has just come has made the file and then writes its number
        pid = self.folder / "nginx" / "nginx.pid"
        return int(wait_for(lambda: pid.read_text().strip(), 10, "nginx.pid has a number"))

    def workers(self, leaving=False):
        """Pids of the workers that serve, the oldest first; with leaving, those too that only finish what they have."""
        pids = []
        for pid in pathlib.Path(f"/proc/{self.master()}/task/{self.master()}/children").read_text().split():
            with contextlib.suppress(OSError):
                title = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
                if b"worker process" in title and (leaving or b"shutting down" not in title):
                    pids.append(int(pid))
        # as the kernel lists them: numbers begin anew when they are used up
        return pids

    def cpu(self):
        """Seconds of CPU that the workers have used: what work costs, however loaded the machine is."""
        total = 0
        for pid in self.workers():
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
            total += int(fields[11]) + int(fields[12])
        return total / os.sysconf("SC_CLK_TCK")

    def reload(self, wait=True):
        before = set(self.workers())
        self.run("reload")
        if wait:
            wait_for(lambda: len(set(self.workers()) - before) == 2 and not before & set(self.workers()), 20,
                     "two new workers serve, the old ones leave")
            # who leaves says so before it closes what is idle: a request on such a connection would meet its end
            for edge in self.edges:
                edge.renew()
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
            "sid": str(uuid.uuid4()), "jti": str(uuid.uuid4()), "iat": now, "nbf": now, "exp": now + 7200,
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

    @contextlib.contextmanager
    def each_worker(self, **options):
        """By pid, a client for each worker, which has accepted its one connection.

        Connections of an idle machine may all go to the same worker; many at once do not.
        """
        held, found = [], {}

        def accepted():
            held.extend(self.connect() for _ in range(16))
            mine = {s.getsockname()[1]: s for s in held}
            found.update({pid: mine[remote] for pid, local, remote, _ in self.sockets() if local == self.port and remote in mine})
            return set(self.workers()) <= set(found)

        try:
            wait_for(accepted, 20, "every worker has accepted a connection")
            yield {pid: self.edge(over=found[pid], **options) for pid in self.workers()}
        finally:
            for s in held:
                s.close()

    def connect(self, timeout=60.0):
        """A socket to nginx, from an address of its own."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=timeout, source_address=(source_address(), 0))

    def raw(self, data, timeout=60.0, finish=False):
        """Sends bytes as they are and returns what comes back until the server closes or falls silent."""
        with self.connect(timeout) as s:
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

    def log_file(self):
        return self.folder / "logs" / "error.log"

    def log_size(self):
        log = self.log_file()
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
            # one that has just been replaced is told of by the log
            try:
                wait_for(lambda: len(self.workers()) == 2, 5)
            except AssertionError:
                faults.append(f"{len(self.workers())} workers serve instead of 2")
            try:
                wait_for(lambda: not self.leftovers(), 20)
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


class Prompt(httpcore.backends.sync.SyncBackend):
    """Sends at once. httpcore writes head and body apart: without this a body waits 40 ms for the head's acknowledgement.

    over: a socket that is open already, and the only one.
    """

    def __init__(self, over=None):
        self.over = over

    def connect_tcp(self, *arguments, **options):
        if self.over and self.over.fileno() == -1:
            raise httpcore.ConnectError("the one connection is closed")
        stream = httpcore.backends.sync.SyncStream(self.over) if self.over else super().connect_tcp(*arguments, **options)
        stream.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return stream


class Sources(httpx.BaseTransport):
    """Connections from a loopback address of this client's own, from the next one after PER_ADDRESS requests and for a login.

    So what a test asks for stays below the limits per address of conf/limits.conf, whatever the test is about.
    """

    PER_ADDRESS = 50

    def __init__(self, address=None, over=None, **options):
        self.address, self.over, self.options = address, over, options
        self.count = itertools.count()
        self.transports = {}
        self.life = 0

    def handle_request(self, request):
        n = next(self.count)
        place = None if self.address or self.over else ("login", n) if request.url.path.endswith("/login") else n // self.PER_ADDRESS
        part = place, self.life
        if part not in self.transports:
            transport = httpx.HTTPTransport(local_address=self.address or source_address(), **self.options)
            transport._pool._network_backend = Prompt(self.over)
            self.transports.setdefault(part, transport)
        return self.transports[part].handle_request(request)

    def close(self):
        for transport in self.transports.values():
            transport.close()


def own_addresses(client, transport=None, verify=False, http1=True, http2=False, limits=httpx.Limits(), **_):
    return transport or Sources(verify=False, http1=http1, http2=http2, limits=limits)


# clients that a test makes without Edge have addresses of their own, too; nothing here speaks TLS by accident
httpx.Client._init_transport = own_addresses
# and the patience of everything else here
for part in ("connect", "read", "write", "pool"):
    setattr(httpx._config.DEFAULT_TIMEOUT_CONFIG, part, 10.0 * SLOW)


class Edge(httpx.Client):
    """A client of the API as one user of one tenant.  address: all its requests come from there; over: on this socket."""

    def __init__(self, stack, tenant=None, address=None, over=None, **options):
        options.setdefault("timeout", 10 * SLOW)
        # no TLS here, and reading the certificates costs 20 ms a client
        transport = {name: options.pop(name) for name in ("limits", "http2", "http1") if name in options}
        if over:
            # it has no other, however long the test looks elsewhere
            transport.setdefault("limits", httpx.Limits(keepalive_expiry=None))
        super().__init__(base_url=stack.url, verify=False, transport=Sources(address, over, verify=False, **transport), **options)
        self.stack = stack
        self.user_id = None
        if tenant:
            self.headers["Host"] = f"{tenant}.localhost"

    def renew(self):
        """The next request has a new connection."""
        self._transport.life += not self._transport.over

    def login(self, email, password="password"):
        answer = self.post("/api/v1/auth/login", json={"email": email, "password": password})
        assert answer.status_code == 200, answer.text
        self.headers["Authorization"] = f"Bearer {answer.json()['token']}"
        self.user_id = answer.json()["user"]["id"]
        return answer.json()
