"""pg/ alone: lanes, deadlines, repeats and losses, through the probe module of t/modules and a PostgreSQL of its own."""

import collections
import concurrent.futures
import contextlib
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading

import httpx
import psycopg
import pytest

from stack import free_ports, wait_for

ROOT = pathlib.Path(__file__).resolve().parent.parent
BIN = "/usr/lib/postgresql/15/bin"
ASAN = os.environ.get("COMMERCE_TEST_MODE") == "asan"

SCHEMA = """
CREATE TABLE counter (id int PRIMARY KEY, n int NOT NULL DEFAULT 0);
INSERT INTO counter SELECT i FROM generate_series(1, 100) i;
CREATE SEQUENCE tries;
CREATE TYPE pair AS (a text, b int);
CREATE FUNCTION context(tenant text) RETURNS void LANGUAGE plpgsql AS
    $$ BEGIN PERFORM set_config('probe.tenant', tenant, true); END $$;
CREATE FUNCTION begin_request() RETURNS void LANGUAGE plpgsql AS
    $$ BEGIN PERFORM set_config('probe.tenant', '1', true); END $$;
CREATE FUNCTION tenant() RETURNS text LANGUAGE plpgsql AS
    $$ BEGIN RETURN coalesce(nullif(current_setting('probe.tenant', true), ''), 'none'); END $$;
CREATE FUNCTION big(n int) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN repeat('0123456789', n / 10); END $$;
CREATE FUNCTION inc(k int, pause float8) RETURNS text LANGUAGE plpgsql AS $$ DECLARE v int; BEGIN
    UPDATE counter SET n = n + 1 WHERE id = k RETURNING n INTO v; PERFORM pg_sleep(pause); RETURN v::text; END $$;
CREATE FUNCTION fail(state text) RETURNS text LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION USING ERRCODE = state, MESSAGE = 'no'; END $$;
CREATE FUNCTION nap(pause float8) RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(pause); RETURN 'slept'; END $$;
CREATE FUNCTION flaky(k int) RETURNS text LANGUAGE plpgsql AS $$ BEGIN
    IF nextval('tries') % k <> 0 THEN RAISE EXCEPTION USING ERRCODE = '40001'; END IF; RETURN 'done'; END $$;
CREATE FUNCTION twin() RETURNS pair LANGUAGE plpgsql AS $$ DECLARE p pair; BEGIN p.a := 'one'; RETURN p; END $$;
CREATE TABLE late (id int PRIMARY KEY, other int REFERENCES counter (id) DEFERRABLE INITIALLY DEFERRED);
CREATE FUNCTION deferred(k int) RETURNS text LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO late VALUES (k, 100000); RETURN 'inserted'; END $$;
"""

CONF = """
load_module {objs}/ngx_http_commerce_module.so;
load_module {objs}/test-modules/ngx_http_pg_probe_module.so;
user root;
worker_processes 2;
pid {folder}/nginx.pid;
error_log {folder}/error.log info;
worker_shutdown_timeout 5s;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {folder}/temp; proxy_temp_path {folder}/temp; fastcgi_temp_path {folder}/temp;
    uwsgi_temp_path {folder}/temp; scgi_temp_path {folder}/temp;
    commerce_postgres write 127.0.0.1:{pg} dbname=probe user=postgres {write};
    commerce_postgres read 127.0.0.1:{pg} {read};
    server {{
        listen 127.0.0.1:{port};
        location = /tenant {{ pg_probe read "SELECT tenant()"; pg_probe_before "SELECT begin_request()"; }}
        location = /naked {{ pg_probe read "SELECT tenant()"; }}
        location = /big {{ pg_probe read "SELECT big($1::int)"; pg_probe_before "SELECT begin_request()"; pg_probe_value $arg_n; }}
        location = /fail {{ pg_probe read "SELECT fail($1)"; pg_probe_before "SELECT begin_request()"; pg_probe_value $arg_state; }}
        location = /nap {{ pg_probe read "SELECT nap($1::float8)"; pg_probe_before "SELECT begin_request()"; pg_probe_value $arg_s; }}
        location = /twin {{ pg_probe read "SELECT t.* FROM twin() t"; pg_probe_before "SELECT begin_request()"; }}
        location = /missing {{ pg_probe read "SELECT missing()"; pg_probe_before "SELECT begin_request()"; }}
        location = /inc {{ pg_probe write "SELECT inc($1::int, $2::float8)"; pg_probe_before "SELECT begin_request()";
                           pg_probe_value $arg_k; pg_probe_value $arg_s; }}
        location = /flaky {{ pg_probe write "SELECT flaky($1::int)"; pg_probe_before "SELECT begin_request()"; pg_probe_value $arg_k; }}
        location = /deferred {{ pg_probe write "SELECT deferred($1::int)"; pg_probe_before "SELECT begin_request()"; pg_probe_value $arg_k; }}
        location = /status {{ pg_probe_status; }}
    }}
}}
"""


class Probe:
    """A PostgreSQL and an nginx in one folder, without the shop."""

    def __init__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="nginx-commerce-pg."))
        self.objs = ROOT / ("objs-asan" if ASAN else "objs")
        self.pg, self.port = free_ports(2)
        shutil.chown(self.folder, "postgres")
        self.url = f"http://127.0.0.1:{self.port}"
        self.run([f"{BIN}/initdb", "-D", self.folder / "data", "-A", "trust", "-U", "postgres"], postgres=True)
        self.postgres("start")
        with self.db("postgres") as db:
            db.execute("CREATE DATABASE probe")
        with self.db() as db:
            db.execute(SCHEMA)

    def run(self, command, postgres=False):
        prefix = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"] if postgres else []
        subprocess.run([*prefix, *map(str, command)], check=True, stdout=subprocess.DEVNULL)

    def postgres(self, action, mode="fast"):
        options = ["-o", f"-p {self.pg} -k {self.folder} -c listen_addresses=127.0.0.1"] if action == "start" else ["-m", mode]
        self.run([f"{BIN}/pg_ctl", "-D", self.folder / "data", "-l", self.folder / "pg.log", "-w", *options, action], True)

    def db(self, name="probe"):
        return psycopg.connect(host="127.0.0.1", port=self.pg, user="postgres", dbname=name, autocommit=True)

    def start(self, read="", write="", deadlines=False):
        """deadlines: the module's own.  Otherwise they are out of reach: a slow machine is not a dead server."""
        if not deadlines:
            read += " statement_timeout=2m timeout=3m"
            write += " lock_timeout=1m statement_timeout=2m timeout=3m"
        conf = self.folder / "nginx.conf"
        conf.write_text(CONF.format(objs=self.objs, folder=self.folder, pg=self.pg, port=self.port, read=read, write=write))
        environment = dict(os.environ)
        if ASAN:
            library = subprocess.run(["gcc", "-print-file-name=libasan.so"], check=True, capture_output=True, text=True)
            environment |= {"LD_PRELOAD": library.stdout.strip(), "ASAN_OPTIONS": "detect_leaks=0:detect_odr_violation=0"}
        subprocess.run(["/usr/sbin/nginx", "-c", conf, "-p", self.folder], check=True, env=environment)
        self.master = int((self.folder / "nginx.pid").read_text())

    def ready(self):
        """Each of the two workers has all its connections."""
        def serves():
            # many at once: those of an idle machine, one after another, may all go to the same worker
            with concurrent.futures.ThreadPoolExecutor(16) as pool:
                told = list(pool.map(lambda _: self.status(), range(16)))
            return len({pid for _, pid in told}) == 2 and all(all(lanes.values()) for lanes, _ in told)

        wait_for(serves, 40, "all lanes serve at both workers")

    def status(self):
        text = httpx.get(self.url + "/status").text
        lanes = {m[0]: m[1] == m[2] for m in re.findall(r"(\w+) configured=(\d+) ready=(\d+)", text)}
        return lanes, re.search(r"pid=(\d+)", text)[1]

    def quit(self):
        """All processes end by themselves, and nothing alarming was logged."""
        os.kill(self.master, signal.SIGQUIT)
        wait_for(lambda: not pathlib.Path(f"/proc/{self.master}").exists(), 10, "nginx ended")
        log = (self.folder / "error.log").read_text()
        (self.folder / "error.log").unlink()
        faults = [line for line in log.splitlines() if re.search(r"\[(alert|emerg|crit)\]|Sanitizer|runtime error", line)]
        assert not faults, "\n".join(faults[:20])
        return log

    def get(self, path, **arguments):
        answer = httpx.get(self.url + path, params=arguments, timeout=200)
        return answer.status_code, answer.text

    def many(self, count, path, workers=16, **arguments):
        with concurrent.futures.ThreadPoolExecutor(workers) as pool:
            return collections.Counter(pool.map(lambda _: self.get(path, **arguments), range(count)))


@pytest.fixture(scope="module")
def server():
    for script in ("scripts/build", "t/modules/build"):
        subprocess.run([ROOT / script, *(["--asan"] if ASAN else [])], check=True)
    probe = Probe()
    yield probe
    probe.postgres("stop", "immediate")
    shutil.rmtree(probe.folder)


@pytest.fixture
def probe(server, request):
    """A running nginx.  Parametrize indirectly with the lanes' parameters."""
    server.start(**getattr(request, "param", {}))
    server.ready()
    yield server
    server.quit()


def test_an_error_does_not_harm_its_neighbours(probe):
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        good = pool.submit(probe.many, 300, "/tenant")
        bad = pool.submit(probe.many, 300, "/fail", state="SH409")
    assert good.result() == {(200, "1"): 300}
    assert bad.result() == {(500, "failed SH409"): 300}


def test_a_context_does_not_leak_into_the_next_operation(probe):
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        with_context = pool.submit(probe.many, 300, "/tenant")
        without = pool.submit(probe.many, 300, "/naked")
    assert with_context.result() == {(200, "1"): 300}
    assert without.result() == {(200, "none"): 300}


@pytest.mark.parametrize("size", [16380, 1 << 20, 20_000_000])
def test_large_results(probe, size):
    size -= size % 10
    assert probe.get("/big", n=size) == (200, "0123456789" * (size // 10))


def test_serialization_failures_are_repeated_three_times(probe):
    with probe.db() as db:
        db.execute("ALTER SEQUENCE tries RESTART 1")
    assert probe.get("/flaky", k=4) == (200, "done")
    assert probe.get("/flaky", k=1000) == (500, "failed 40001")
    with probe.db() as db:
        assert db.execute("SELECT last_value FROM tries").fetchone() == (8,)


def test_an_answer_waits_for_the_commit(probe):
    assert probe.get("/deferred", k=1) == (500, "failed 23503")


# the edge's own deadlines, a second or two behind the server's, are out of reach: on a slow machine they would speak first
@pytest.mark.parametrize("probe", [{"deadlines": True, "read": "timeout=3m", "write": "timeout=3m"}], indirect=True)
def test_server_side_timeouts(probe):
    assert probe.get("/nap", s=3) == (500, "failed 57014")
    with probe.db() as db, db.transaction():
        db.execute("SELECT * FROM counter WHERE id = 9 FOR UPDATE")
        assert probe.get("/inc", k=9, s=0) == (500, "failed 55P03")


def test_a_function_that_changes_its_type_is_prepared_anew(probe):
    assert probe.many(50, "/twin") == {(200, "one"): 50}
    with probe.db() as db:
        db.execute("ALTER TYPE pair ADD ATTRIBUTE c int CASCADE")
    assert probe.many(50, "/twin") == {(200, "one"): 50}


def test_a_missing_function_fails_alone_until_it_exists(probe):
    assert probe.get("/missing") == (500, "failed 42883")
    assert probe.get("/tenant") == (200, "1")
    with probe.db() as db:
        db.execute("CREATE FUNCTION missing() RETURNS text LANGUAGE sql AS $$ SELECT 'here' $$")
        assert probe.many(20, "/missing") == {(200, "here"): 20}
        db.execute("DROP FUNCTION missing()")


@pytest.mark.parametrize("probe", [{"write": "connections=1 depth=1 queue=2"}], indirect=True)
def test_overload_is_refused_at_once(probe):
    """Each worker has one under way and two that wait, for as long as the row is locked; the others have their answer meanwhile."""
    with probe.db() as db, concurrent.futures.ThreadPoolExecutor(24) as pool:
        with db.transaction():
            db.execute("SELECT * FROM counter WHERE id = 2 FOR UPDATE")
            asked = [pool.submit(probe.get, "/inc", k=2, s=0) for _ in range(24)]
            wait_for(lambda: sum(job.done() for job in asked) >= 24 - 2 * 3, 20, "refusals")
            assert {job.result() for job in asked if job.done()} == {(503, "busy")}
        answers = collections.Counter(job.result()[0] for job in asked)
    assert set(answers) == {200, 503} and 3 <= answers[200] <= 6


@pytest.mark.parametrize("probe", [{"write": "connections=1 depth=1"}], indirect=True)
def test_writes_of_clients_that_left_are_done_all_the_same(probe):
    def arrived():
        """nginx has read all that was sent to its port."""
        lines = pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:]
        queues = [int(field[4].split(":")[1], 16) for field in map(str.split, lines)
                  if int(field[1].split(":")[1], 16) == probe.port and field[3] == "01"]
        return len(queues) >= 6 and not any(queues)

    with probe.db() as db:
        with db.transaction():
            before = db.execute("SELECT n FROM counter WHERE id = 3 FOR UPDATE").fetchone()[0]
            # one of each worker is in flight, the others wait in its queue
            clients = [socket.create_connection(("127.0.0.1", probe.port)) for _ in range(6)]
            for client in clients:
                client.sendall(b"GET /inc?k=3&s=0 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            wait_for(arrived, 10, "all have been read")
            for client in clients:
                client.close()
        wait_for(lambda: db.execute("SELECT n FROM counter WHERE id = 3").fetchone()[0] == before + 6, 10, "all are done")


@contextlib.contextmanager
def load(probe, *asked):
    """A thread for each (path, arguments) that asks until the block ends, however it ends; yields how often each status came."""
    stop, answers = threading.Event(), collections.Counter()

    def ask(path, arguments):
        while not stop.is_set():
            answers[probe.get(path, **arguments)[0]] += 1

    threads = [threading.Thread(target=ask, args=one) for one in asked]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@pytest.mark.slow
def test_the_server_restarts_under_load(probe):
    with load(probe, *[("/tenant", {})] * 4, *(("/inc", {"k": 5 + i, "s": 0}) for i in range(4))) as answers:
        wait_for(lambda: answers[200] > 100, 30, "traffic")
        probe.postgres("stop", "immediate")
        try:
            wait_for(lambda: answers[503] > 10, 30, "refusals")
        finally:
            probe.postgres("start")
        probe.ready()
        after = answers[200]
        wait_for(lambda: answers[200] > after + 100, 30, "traffic again")
    assert set(answers) == {200, 503}
    assert probe.get("/inc", k=5, s=0)[0] == 200


@pytest.mark.slow
@pytest.mark.parametrize("probe", [{"deadlines": True}], indirect=True)
def test_a_server_that_stands_still_is_given_up(probe):
    with probe.db() as db:
        pids = [int(row[0]) for row in db.execute("SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'nginx%'")]
    postmaster = int((probe.folder / "data" / "postmaster.pid").read_text().splitlines()[0])
    pids.append(postmaster)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        assert probe.get("/inc", k=7, s=0) == (503, "lost")
        assert probe.get("/tenant")[0] == 503
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    probe.ready()
    assert probe.get("/tenant") == (200, "1")


@pytest.mark.slow
def test_reload_under_load(probe):
    with load(probe, *[("/nap", {"s": 0.05})] * 3, *(("/inc", {"k": 20 + i, "s": 0.05}) for i in range(3))) as answers:
        for _ in range(3):
            old = {probe.status()[1] for _ in range(10)}
            os.kill(probe.master, signal.SIGHUP)
            wait_for(lambda old=old: not any(pathlib.Path(f"/proc/{pid}").exists() for pid in old), 10, "old workers left")
    assert set(answers) == {200}


def test_start_without_a_server(server):
    server.postgres("stop")
    server.start(read="grace=300ms")
    try:
        assert server.get("/tenant")[0] == 503
        wait_for(lambda: server.get("/tenant") == (503, "declined"), 5, "refused at once")
        server.postgres("start")
        server.ready()
        # of two workers one may still wait for its next attempt
        wait_for(lambda: all(server.get("/tenant") == (200, "1") for _ in range(6)), 10, "every worker is back")
    finally:
        log = server.quit()
    assert "listen connection is back" in log or "write connection is back" in log
