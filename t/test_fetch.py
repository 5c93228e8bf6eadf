"""Outbound calls: what SQL asks for in edge.fetch and edge.mail, whatever the other side does."""

import base64
import contextlib
import hashlib
import hmac
import json
import pathlib
import subprocess
import threading
import time

import pytest

import peer as peers
from stack import MODE, NO_MAIL, free_ports, wait_for

HERE = pathlib.Path(__file__).parent
PATIENCE = 60


@pytest.fixture(scope="module")
def there(shop):
    """The other side, the names that lead to it, and the routes that ask for calls."""
    with shop.db() as db:
        db.execute((HERE / "contracts" / "fetch.sql").read_text())
    bundle = shop.folder / "fetch.json"
    bundle.write_text(shop.run("bundle", HERE / "contracts" / "fetch.yaml", script="scripts/contract").stdout)
    names = shop.folder / "names.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", names, HERE / "names.c", "-ldl"], check=True)
    names.chmod(0o755)
    for name, text in (("psp", "sk_test_1"), ("signing", "whsec_" + base64.b64encode(b"k" * 32).decode()), ("old", "plain-key")):
        secret = shop.folder / "secrets" / name
        secret.write_text(text + "\n")
        secret.chmod(0o400)
    plain, tls, wrong, mail, closed = free_ports(5)
    cert = peers.certificate(shop.folder, "double.test")
    with peers.Peer(plain) as here, peers.Peer(tls, cert) as safe, peers.Mailbox(mail) as box:
        here.tls, here.box, here.closed = safe, box, closed
        here.conf = f"""
            commerce_contract {bundle};
            commerce_fetch_ca {cert[0]};
            commerce_fetch_timeout 20s;
            commerce_fetch_wait 50s;
            commerce_fetch_url psp http://127.0.0.1:{plain}/echo;
            commerce_secret psp file={shop.folder}/secrets/psp for=http://127.0.0.1:{plain};
            commerce_secret signing file={shop.folder}/secrets/signing;
            commerce_secret old file={shop.folder}/secrets/old;
            commerce_mail_server smtp://127.0.0.1:{mail};
        """
        def start(more=""):
            shop.configure(http=here.conf + more, replace=NO_MAIL)
            shop.stop("nginx")
            shop.run("start", "nginx", **({} if MODE == "asan" else {"LD_PRELOAD": str(names)}))
            shop.ready()

        @contextlib.contextmanager
        def running(more):
            start(more)
            try:
                yield
            finally:
                start()

        here.running = running
        start()
        yield here


@pytest.fixture
def ask(shop, there):
    def ask(edge=None, tenant="demo", **call):
        call.setdefault("then", "api.probe_fetched")
        call.setdefault("guard", "none")
        body = {"edge": edge or {"fetch": call}}
        with shop.edge(tenant=tenant, timeout=PATIENCE) as client:
            return client.post("/api/v1/probe/fetch", json=body)
    return ask


def outcome(answer):
    assert answer.status_code == 200, answer.text
    told = answer.json()
    return told["status"], told["error"]


def test_the_answer_of_then_is_the_answer(shop, there, ask):
    answer = ask(url=f"{there.url}/echo?a=1", method="POST", body="{\"x\": \"ü\"}", headers={"X-One": "1", "X-Empty": ""},
                 args={"tag": "first \"one\""})
    assert answer.status_code == 200 and answer.headers["x-told"] == "yes"
    assert answer.json() == {"status": 200, "body": "{\"x\": \"ü\"}", "length": 10, "error": None, "tag": "first \"one\""}
    method, path, headers, body = there.seen[-1]
    assert (method, path, body.decode()) == ("POST", "/echo?a=1", "{\"x\": \"ü\"}")
    assert headers["X-One"] == "1" and headers["X-Empty"] == "" and "Expect" not in headers
    rows = shop.rows("SELECT * FROM shop.probe_call WHERE tag = %s", 'first "one"')
    assert [(r["tenant"], r["status"]) for r in rows] == [("1", 200)]
    assert "probe_fetch" in rows[0]["called"], "the context is the request's"


def test_the_tenant_goes_along(shop, there, ask):
    outcome(ask(url=f"{there.url}/echo", args={"tag": "acme"}, tenant="acme"))
    assert shop.value("SELECT tenant FROM shop.probe_call WHERE tag = 'acme'") == "2"


@pytest.mark.parametrize("path, timeout_ms, expected", [
    ("/echo", 20000, (200, None)),
    ("/missing", 20000, (404, None)),
    ("/broken", 20000, (500, None)),
    ("/empty", 20000, (204, None)),
    ("/redirect", 20000, (302, None)),
    ("/megabyte", 20000, (200, None)),
    ("/never", 300, (0, "timeout")),
    ("/drip", 500, (0, "timeout")),
    ("/cut", 20000, (0, "cut")),
    ("/huge", 20000, (0, "too-large")),
    ("/binary", 20000, (0, "not-text")),
])
def test_what_comes_back(there, ask, path, timeout_ms, expected):
    answer = ask(url=there.url + path, timeout_ms=timeout_ms)
    assert outcome(answer) == expected
    if path == "/megabyte":
        assert answer.json()["length"] == 1024 * 1024


def test_nothing_follows_a_redirect(there, ask):
    before = len(there.paths())
    assert outcome(ask(url=f"{there.url}/redirect")) == (302, None)
    assert there.paths()[before:] == ["/redirect"]


def test_what_nobody_would_know_again_is_sent_once(there, ask):
    """Kept connections end when they are used again: curl would repeat the request."""
    before = there.paths().count("/kept")
    for _ in range(6):
        assert outcome(ask(url=f"{there.url}/kept", method="POST", body="x")) == (200, None)
    assert there.paths().count("/kept") == before + 6
    # what it would know again may meet one kept connection after the other, and is repeated
    for _ in range(3):
        assert outcome(ask(url=f"{there.url}/kept", method="POST", body="x", headers={"Idempotency-Key": "1"})) in ((200, None), (0, "cut"))
    assert there.paths().count("/kept") > before + 9


def test_nobody_listens(there, ask):
    assert outcome(ask(url=f"http://127.0.0.1:{there.closed}/")) == (0, "connect")


@pytest.mark.parametrize("url", [
    "http://127.0.0.1:{port}/echo", "http://localhost:{port}/echo", "http://[::1]:{port}/echo", "http://0.0.0.0:{port}/echo",
    "http://2130706433:{port}/echo", "http://0x7f.1:{port}/echo", "http://[::ffff:127.0.0.1]:{port}/echo",
    "http://10.0.0.1/", "http://172.31.255.255/", "http://192.168.1.1/", "http://169.254.169.254/latest/meta-data/",
    "http://100.64.0.1/", "http://198.18.0.1/", "http://224.0.0.1/", "http://255.255.255.255/", "http://192.0.2.1/",
    "http://[fe80::1]/", "http://[fc00::1]/", "http://[fd12:3456::1]/", "http://[64:ff9b::7f00:1]/", "http://[2002:7f00:1::]/",
    "http://[2001:db8::1]/", "http://[ff02::1]/", "http://[::]:{port}/",
])
def test_addresses_that_are_nobodys_business(there, ask, url):
    before = len(there.paths())
    status, error = outcome(ask(url=url.format(port=there.port), guard="public", timeout_ms=5000))
    # an address family that this machine lacks cannot be reached either
    assert status == 0 and error in (("refused",) if "[" not in url else ("refused", "connect", "resolve")), error
    assert len(there.paths()) == before


def test_the_guard_is_on_unless_told(there, ask):
    assert outcome(ask(url=f"{there.url}/echo", guard=None)) == (0, "refused")


@pytest.mark.skipif(MODE == "asan", reason="the preloaded names would come before the sanitizer")
def test_names_that_lead_inside(there, ask):
    before = len(there.paths())
    for name in ("double.test", "private.test", "mapped.test"):
        assert outcome(ask(url=f"http://{name}:{there.port}/echo", guard="public")) == (0, "refused")
    assert len(there.paths()) == before
    assert outcome(ask(url=f"http://double.test:{there.port}/echo")) == (200, None)
    # a connection that was made without the guard is not taken for a call under it
    assert outcome(ask(url=f"http://double.test:{there.port}/echo", guard="public")) == (0, "refused")


@pytest.mark.skipif(MODE == "asan", reason="the preloaded names would come before the sanitizer")
def test_a_name_server_that_is_silent(shop, there, ask):
    begun = threading.Event()
    result = []

    def hanging():
        begun.set()
        result.append(outcome(ask(url="http://hang.test/", timeout_ms=12000)))

    threads = [threading.Thread(target=hanging) for _ in range(4)]
    for t in threads:
        t.start()
    begun.wait()
    # both workers go on meanwhile
    with shop.each_worker() as edges:
        for edge in list(edges.values()) * 3:
            assert edge.get("/health/live").status_code == 200
            assert not result
    for t in threads:
        t.join(PATIENCE)
    assert result == [(0, "timeout")] * 4


def test_schemes_and_credentials(there, ask):
    for url, error in (("file:///etc/passwd", "refused"), ("gopher://127.0.0.1/", "refused"), ("ftp://127.0.0.1/", "refused"),
                       ("smtp://127.0.0.1/", "refused"), ("//127.0.0.1/", "refused"), ("", "refused"),
                       (f"http://user:pw@127.0.0.1:{there.port}/echo", "refused"),
                       (f"http://127.0.0.1:{there.port}/a b", "config"), ("http://a\r\nHost: b/", "config")):
        assert outcome(ask(url=url)) == (0, error), url


def test_a_header_cannot_begin_another(there, ask):
    before = len(there.paths())
    for headers in ({"X-A": "1\r\nX-B: 2"}, {"X-A\r\nX-B": "1"}, {"": "1"}, {"X-A:": "1"}):
        assert outcome(ask(edge={"fetch": {
            "url": f"{there.url}/echo", "guard": "none", "headers": headers, "then": "api.probe_fetched"}})) == (0, "config")
    assert len(there.paths()) == before


@pytest.mark.skipif(MODE == "asan", reason="the preloaded names would come before the sanitizer")
def test_tls_is_verified(there, ask):
    assert outcome(ask(url=f"https://double.test:{there.tls.port}/echo")) == (200, None)
    # the same certificate under another name
    assert outcome(ask(url=f"https://127.0.0.1:{there.tls.port}/echo")) == (0, "tls")
    # no TLS at all
    assert outcome(ask(url=f"https://double.test:{there.port}/echo")) == (0, "tls")


def test_secrets_go_where_they_belong(shop, there, ask):
    bearer = {"Authorization": "Bearer {secret:psp}"}
    call = {"then": "api.probe_fetched", "headers": bearer}
    # {url:NAME}: the operator's own address needs no guard=none
    assert outcome(ask(edge={"fetch": {**call, "url": "{url:psp|https://psp.example}/v1"}})) == (200, None)
    assert there.seen[-1][1] == "/echo/v1" and there.seen[-1][2]["Authorization"] == "Bearer sk_test_1"
    before = len(there.paths())
    # another host, or one that looks like it
    for url in (f"http://localhost:{there.port}/echo", f"http://127.0.0.1:{there.port}1/echo"):
        assert outcome(ask(edge={"fetch": {**call, "url": url, "guard": "none"}})) == (0, "refused")
    assert outcome(ask(edge={"fetch": {"url": f"{there.url}/echo", "guard": "none", "then": "api.probe_fetched",
                                       "headers": {"X-A": "{secret:nobody}"}}})) == (0, "config")
    assert len(there.paths()) == before
    # a body is text unless SQL says otherwise: a customer may have written it
    assert ask(url=f"{there.url}/echo", method="POST", body="{secret:psp}").json()["body"] == "{secret:psp}"
    assert ask(edge={"fetch": {"url": f"{there.url}/echo", "guard": "none", "then": "api.probe_fetched", "method": "POST",
                               "body": "a={secret:psp}&b={secret", "expand": True}}).json()["body"] == "a=sk_test_1&b={secret"
    assert "sk_test_1" not in "\n".join(shop.log_lines())


def test_sealed_values_open_for_their_tenant_only(shop, there, ask):
    with shop.edge(tenant="demo") as edge:
        sealed = edge.post("/api/v1/probe/seal", json={"value": "sk & \"quoted\""}).json()["sealed"]
    assert sealed.startswith("v1:")

    def send(context, kind="text/plain", body=None, tenant="demo"):
        return ask(tenant=tenant, edge={"fetch": {
            "url": f"{there.url}/echo", "guard": "none", "method": "POST", "then": "api.probe_fetched", "expand": True,
            "headers": {"Content-Type": kind}, "body": (body or "%s") % ("{sealed:" + context + "|" + sealed + "}")}})

    assert send("probe 1 t:1").json()["body"] == 'sk & "quoted"'
    assert send("probe 1 t:1", "application/json", '{"k":"%s"}').json()["body"] == r'{"k":"sk & \"quoted\""}'
    assert send("probe 1 t:1", "application/x-www-form-urlencoded", "k=%s").json()["body"] == "k=sk%20%26%20%22quoted%22"
    for context, tenant in (("probe 2 t:1", "demo"), ("probe 1 t:2", "demo"), ("other 1 t:1", "demo"), ("probe", "demo"),
                            ("probe 1 t:1", "acme"), ("probe 11 t:1", "demo")):
        assert outcome(send(context, tenant=tenant)) == (0, "config")


def test_signatures(there, ask):
    key = b"k" * 32
    sign = {"kind": "standard-webhooks", "id": "evt_1", "timestamp": 1700000000, "secret": ["{secret:signing}", "{secret:old}"]}
    outcome(ask(edge={"fetch": {"url": f"{there.url}/echo", "guard": "none", "method": "POST", "body": "{\"a\":1}", "sign": sign,
                                "then": "api.probe_fetched"}}))
    headers = there.seen[-1][2]

    def v1(k, text):
        return "v1," + base64.b64encode(hmac.new(k, text, hashlib.sha256).digest()).decode()

    text = b"evt_1.1700000000.{\"a\":1}"
    assert headers["webhook-id"] == "evt_1" and headers["webhook-timestamp"] == "1700000000"
    assert headers["webhook-signature"] == f"{v1(key, text)} {v1(b'plain-key', text)}"
    outcome(ask(edge={"fetch": {"url": f"{there.url}/echo", "guard": "none", "method": "POST", "body": "x", "then": "api.probe_fetched",
                                "sign": {"kind": "hmac-sha256", "secret": "{secret:old}", "header": "X-Sig"}}}))
    stamp, digest = there.seen[-1][2]["X-Sig"].split(",")
    assert abs(int(stamp[2:]) - time.time()) < 600
    assert digest == "v1=" + hmac.new(b"plain-key", f"{stamp[2:]}.x".encode(), hashlib.sha256).hexdigest()
    for wrong in ({"kind": "other", "secret": "{secret:old}"}, {"kind": "hmac-sha256"}, {"kind": "hmac-sha256", "secret": "plain"},
                  {"kind": "standard-webhooks", "secret": "{secret:old}"}):
        assert outcome(ask(edge={"fetch": {"url": f"{there.url}/echo", "guard": "none", "sign": wrong,
                                           "then": "api.probe_fetched"}})) == (0, "config")


def test_calls_in_a_row(shop, there, ask):
    def chain(n):
        call = {"url": f"{there.url}/echo?n={n}", "guard": "none", "then": "api.probe_fetched", "args": {"tag": f"link {n}"}}
        if n:
            call["args"]["next"] = {"fetch": chain(n - 1)}
        return call

    assert ask(edge={"fetch": chain(3)}).json()["tag"] == "link 0"
    # the fifth is not made, and the fourth's answer stands
    assert ask(edge={"fetch": chain(6)}).json()["tag"] == "link 3"


def test_a_list_is_not_waited_for(shop, there, ask):
    before = shop.value("SELECT count(*) FROM shop.probe_call WHERE tag = 'side'")
    calls = [{"url": f"{there.url}/echo", "guard": "none", "then": "api.probe_fetched", "args": {"tag": "side"}}] * 3
    answer = ask(edge={"fetch": calls})
    assert answer.status_code == 202 and answer.json() == {"state": "pending"}
    wait_for(lambda: shop.value("SELECT count(*) FROM shop.probe_call WHERE tag = 'side'") == before + 3, PATIENCE, "all were told")


def test_a_pause_calls_nobody(shop, there, ask):
    before = len(there.paths())
    for wait in (0, 50):
        answer = ask(edge={"fetch": {"after_ms": wait, "then": "api.probe_fetched", "args": {"tag": f"pause {wait}"}}})
        assert outcome(answer) == (200, None) and answer.json()["tag"] == f"pause {wait}" and not answer.json()["body"]
        assert shop.value("SELECT ms FROM shop.probe_call WHERE tag = %s", f"pause {wait}") >= wait
    assert ask(edge={"fetch": {"then": "api.probe_fetched"}}).json()["error"] == "config", "neither a call nor a pause"
    assert len(there.paths()) == before
    # one that is long does not hold a worker that leaves
    assert ask(edge={"fetch": {"after_ms": 50000, "wait_ms": 1, "then": "api.probe_fetched", "args": {"tag": "long"}}}).status_code == 202
    old = shop.reload(wait=False)
    wait_for(lambda: not old & set(shop.workers(leaving=True)), PATIENCE / 2, "the old workers leave")
    assert shop.value("SELECT status FROM shop.probe_call WHERE tag = 'long'") == 200


def test_a_refusal_is_the_answer_and_a_fault_is_not(shop, there, ask):
    answer = ask(url=f"{there.url}/echo", then="api.probe_refused")
    assert answer.status_code == 402 and answer.json()["code"] == "payment-declined"
    answer = ask(url=f"{there.url}/echo", then="api.probe_faulty")
    assert answer.status_code == 202 and answer.json() == {"state": "pending"}, "what was committed stands"
    for then in ("pg_sleep", "api.begin_command; DROP TABLE x", "domain.fail"):
        assert ask(url=f"{there.url}/echo", then=then).status_code == 202
    assert ask(url=f"{there.url}/echo", then="api.no_such_function").status_code == 202


def test_who_waits_too_long_gets_what_is_committed(shop, there, ask):
    there.gate.clear()
    answer = ask(url=f"{there.url}/gate", wait_ms=200, args={"tag": "late"})
    assert answer.status_code == 202 and answer.json() == {"state": "pending"}
    assert not shop.rows("SELECT 1 FROM shop.probe_call WHERE tag = 'late'")
    there.gate.set()
    wait_for(lambda: shop.value("SELECT count(*) FROM shop.probe_call WHERE tag = 'late'") == 1, PATIENCE, "SQL is told later")


def test_a_client_that_leaves_stops_nothing(shop, there, ask):
    there.gate.clear()
    begun = there.paths().count("/gate")
    body = json.dumps({"edge": {"fetch": {"url": f"{there.url}/gate", "guard": "none", "then": "api.probe_fetched", "args": {"tag": "left"}}}})
    with shop.connect() as client:
        client.sendall(f"POST /api/v1/probe/fetch HTTP/1.1\r\nHost: demo.localhost\r\nContent-Type: application/json\r\n"
                       f"Content-Length: {len(body)}\r\n\r\n{body}".encode())
        wait_for(lambda: there.paths().count("/gate") > begun, PATIENCE, "the call is under way")
    there.gate.set()
    wait_for(lambda: shop.value("SELECT count(*) FROM shop.probe_call WHERE tag = 'left'") == 1, PATIENCE, "SQL is told")


def test_the_key_keeps_the_end(shop, there, ask):
    there.gate.clear()
    key = {"Idempotency-Key": "outbound-1"}
    call = {"edge": {"fetch": {"url": f"{there.url}/gate", "guard": "none", "wait_ms": 100, "then": "api.probe_fetched",
                               "args": {"tag": "keyed"}}}}
    begun = there.paths().count("/gate")
    with shop.user() as client:
        assert client.post("/api/v1/probe/fetch", json=call, headers=key).status_code == 202
        again = client.post("/api/v1/probe/fetch", json=call, headers=key)
        assert again.status_code == 202 and again.headers["idempotent-replayed"] == "true"
        there.gate.set()
        wait_for(lambda: shop.value("SELECT count(*) FROM shop.probe_call WHERE tag = 'keyed'") == 1, PATIENCE, "SQL is told")
        later = client.post("/api/v1/probe/fetch", json=call, headers=key)
        assert later.status_code == 200 and later.json()["body"] == "through"
        assert later.headers["idempotent-replayed"] == "true"
    assert there.paths().count("/gate") == begun + 1, "it was called once"


def test_more_at_once_than_there_is_room(shop, there):
    there.gate.clear()
    wait_for(lambda: there.gated == 0, PATIENCE, "nobody waits at the gate")
    there.most = 0
    calls = [{"url": f"{there.url}/gate", "guard": "none", "timeout_ms": 50000, "then": "api.probe_fetched",
              "args": {"tag": "crowd"}} for _ in range(40)]
    with there.running("commerce_fetch_connections 8; commerce_fetch_queue 20;"):
        with shop.edge(tenant="demo", timeout=PATIENCE) as client:
            assert client.post("/api/v1/probe/fetch", json={"edge": {"fetch": calls}}).status_code == 202
        # eight under way, and what does not fit is told so at once
        wait_for(lambda: shop.value("SELECT count(*) FROM shop.probe_call WHERE tag = 'crowd'") >= 12, PATIENCE, "some are refused")
        wait_for(lambda: there.gated == 8, PATIENCE, "eight are under way")
        there.gate.set()
        wait_for(lambda: shop.value("SELECT count(*) FROM shop.probe_call WHERE tag = 'crowd'") == 40, PATIENCE, "all were told")
    counts = {r["error"]: r["n"] for r in shop.rows("SELECT error, count(*) AS n FROM shop.probe_call WHERE tag = 'crowd' GROUP BY 1")}
    assert there.most == 8 and counts == {"busy": 12, None: 28}


def test_mail(shop, there, ask):
    data = "From: shop@example.com\r\nTo: a@example.com\r\nSubject: Hi\r\n\r\n.dot\r\nBye {secret:psp}\r\n"
    mail = {"from": "shop@example.com", "to": ["a@example.com", "b@example.com"], "data": data, "message_id": "<1@x>",
            "then": "api.probe_fetched", "args": {"tag": "mail"}}
    assert outcome(ask(edge={"mail": mail})) == (250, None)
    sender, to, text = there.box.mails[-1]
    assert "shop@example.com" in sender and len(to) == 2
    assert text.decode().strip() == data.strip()
    # nobody of that name: the server's answer, and no mail
    count = len(there.box.mails)
    assert outcome(ask(edge={"mail": {**mail, "to": ["x@no.example"]}})) == (550, None)
    for address in ("a@example.com>\r\nRCPT TO:<c@example.com", "a b@example.com", ""):
        assert outcome(ask(edge={"mail": {**mail, "to": [address]}})) == (0, "config")
    assert len(there.box.mails) == count


def test_a_worker_that_leaves_ends_what_it_began(shop, there, ask):
    there.gate.clear()
    begun = there.paths().count("/gate")
    result = []
    waiting = threading.Thread(target=lambda: result.append(ask(url=f"{there.url}/gate", args={"tag": "reload"})))
    waiting.start()
    detached = ask(url=f"{there.url}/gate", wait_ms=1, args={"tag": "reload"})
    assert detached.status_code == 202
    wait_for(lambda: there.paths().count("/gate") == begun + 2, PATIENCE, "both are under way")
    old = shop.reload(wait=False)
    wait_for(lambda: len(set(shop.workers()) - old) == 2, PATIENCE, "new workers serve")
    there.gate.set()
    waiting.join(PATIENCE)
    assert outcome(result[0]) == (200, None)
    wait_for(lambda: shop.value("SELECT count(*) FROM shop.probe_call WHERE tag = 'reload'") == 2, PATIENCE, "both were told")
    wait_for(lambda: not old & set(shop.workers(leaving=True)), PATIENCE, "the old workers leave")


@pytest.mark.parametrize("line, says", [
    ("commerce_secret x;", "number of arguments"),
    ("commerce_secret x for=https://a;", "needs file="),
    ("commerce_secret x file=secrets/none;", "cannot be opened"),
    ("commerce_secret psp file={f}/secrets/psp for=psp.example;", "is no origin"),
    ("commerce_secret psp file={f}/secrets/psp for=https://psp.example/v1;", "is no origin"),
    ("commerce_secret psp file={f}/secrets/psp; commerce_secret psp file={f}/secrets/psp;", "is duplicate"),
    ("commerce_fetch_url psp psp.example;", "needs a URL"),
    ("commerce_fetch_allow 10.0.0.0/99;", "neither an address nor a network"),
    ("commerce_fetch_ca /nowhere.pem;", "cannot be read"),
    ("commerce_fetch_timeout 0;", "cannot be 0"),
    ("commerce_mail_server mail.example;", "needs a URL"),
    ("commerce_mail_server smtp://a user=b;", "without password_file="),
    ("commerce_mail_server smtp://a password=b;", "password_file"),
    ("commerce_mail_server smtp://a tls=maybe;", "tls=required"),
])
def test_directives_that_are_wrong(shop, there, line, says):
    try:
        shop.configure(http=line.format(f=shop.folder), replace=NO_MAIL)
        done = shop.check_conf()
        assert done.returncode and says in done.stdout + done.stderr
        shop.expect_log(r"\[emerg\]")
    finally:
        shop.configure(http=there.conf, replace=NO_MAIL)
