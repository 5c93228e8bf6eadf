"""The examples of conf/examples/, started for real: TLS in the open, certificates of callers, TLS to PostgreSQL."""

import contextlib
import pathlib
import pwd
import re
import shutil
import socket
import ssl
import subprocess

import httpx
import pytest

from stack import ROOT, SLOW, free_ports, wait_for

EXAMPLES = ROOT / "conf" / "examples"


def openssl(*arguments, stdin=None):
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, input=stdin)


class Authority:
    """A certificate authority in a folder."""

    def __init__(self, folder, name="Test authority"):
        self.folder = folder
        folder.mkdir()
        folder.chmod(0o755)
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", f"/CN={name}",
                "-keyout", folder / "ca.key", "-out", folder / "ca.pem")

    def issue(self, name, subject, alternatives=None, expired=False, owner=None, mode=0o400):
        key, request, pem = (self.folder / f"{name}.{end}" for end in ("key", "csr", "pem"))
        openssl("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={subject}",
                "-keyout", key, "-out", request)
        extensions = self.folder / f"{name}.ext"
        extensions.write_text(f"subjectAltName={alternatives}\n" if alternatives else "basicConstraints=CA:FALSE\n")
        # before it ends it must begin: -days -1 makes one that ended yesterday
        openssl("x509", "-req", "-in", request, "-CA", self.folder / "ca.pem", "-CAkey", self.folder / "ca.key", "-CAcreateserial",
                "-days", "-1" if expired else "2", "-extfile", extensions, "-out", pem)
        key.chmod(mode)
        pem.chmod(0o444)
        if owner:
            shutil.chown(key, owner)
        return pem, key


@pytest.fixture(scope="module")
def authority(shop):
    ca = Authority(shop.folder / "tls")
    root = pathlib.Path("/proc/self").owner() == "root"
    ca.issue("server", "demo.localhost", "DNS:demo.localhost,DNS:localhost,IP:127.0.0.1")
    # libpq reads the edge's key as the workers' user
    ca.issue("edge", "commerce_edge", owner="www-data" if root else None, mode=0o600)
    ca.issue("caller", "warehouse")
    ca.issue("expired", "warehouse", expired=True)
    ca.issue("postgres", "localhost", "DNS:localhost,IP:127.0.0.1", owner="postgres" if root else None, mode=0o600)
    stranger = Authority(shop.folder / "tls-stranger", "Somebody else")
    stranger.issue("caller", "warehouse")
    return ca


def example(shop, name, **ports):
    """The example with the folders and ports of this run; each replacement must have something to replace."""
    text = (EXAMPLES / name).read_text()
    changes = {"/etc/nginx/commerce/tls": str(shop.folder / "tls"), **ports}
    if name == "postgres-tls.conf":
        changes |= {"/etc/nginx/commerce/secrets": str(shop.folder / "secrets"), "dbname=commerce ": f"dbname={shop.database} "}
    else:
        changes |= {"include  conf/server.conf": f"include  {shop.conf}/server.conf"}
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


# ---- in the open ----

@pytest.fixture(scope="module")
def public(shop, authority):
    plain, tls, internal = free_ports(3)
    http = example(shop, "tls.conf", **{"listen  80;": f"listen  127.0.0.1:{plain};", "listen  443": f"listen  127.0.0.1:{tls}"})
    http += example(shop, "internal-mtls.conf", **{"listen  8443": f"listen  127.0.0.1:{internal}"})
    with shop.configured(http=http):
        yield plain, tls, internal


def trusting(shop):
    return ssl.create_default_context(cafile=shop.folder / "tls" / "ca.pem")


def client(context):
    """Verifies, which the harness' own clients do not."""
    return httpx.Client(transport=httpx.HTTPTransport(verify=context), headers={"Host": "demo.localhost"}, timeout=10 * SLOW)


def test_the_client_of_this_file_verifies(shop, public):
    with client(ssl.create_default_context()) as c, pytest.raises(httpx.ConnectError, match="certificate verify failed"):
        c.get(f"https://localhost:{public[1]}/health/live")


def test_the_shop_over_tls(shop, public):
    with client(trusting(shop)) as edge:
        for path, status in (("/api/v1/products?limit=1", 200), ("/nowhere", 404), ("/api/v1/orders", 401)):
            answer = edge.get(f"https://localhost:{public[1]}{path}")
            assert answer.status_code == status
            assert answer.headers["strict-transport-security"] == "max-age=31536000; includeSubDomains"
            assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("version, ciphers, works", [
    (ssl.TLSVersion.TLSv1_3, None, True),
    (ssl.TLSVersion.TLSv1_2, None, True),
    (ssl.TLSVersion.TLSv1_2, "AES128-SHA", False),              # no forward secrecy
    (ssl.TLSVersion.TLSv1_2, "ECDHE-ECDSA-AES128-SHA", False),  # CBC
    (ssl.TLSVersion.TLSv1_1, "ALL:@SECLEVEL=0", False),
    (ssl.TLSVersion.TLSv1, "ALL:@SECLEVEL=0", False),
])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_is_spoken(shop, public, version, ciphers, works):
    context = trusting(shop)
    context.minimum_version = context.maximum_version = version
    if ciphers:
        context.set_ciphers(ciphers)
    context.set_alpn_protocols(["h2", "http/1.1"])
    with socket.create_connection(("127.0.0.1", public[1]), timeout=10 * SLOW) as s:
        if not works:
            with pytest.raises((ssl.SSLError, ConnectionError)):
                context.wrap_socket(s, server_hostname="localhost")
            return
        with context.wrap_socket(s, server_hostname="localhost") as t:
            assert t.selected_alpn_protocol() == "h2"


def test_plain_http_is_sent_to_tls(shop, public):
    answer = httpx.post(f"http://127.0.0.1:{public[0]}/api/v1/cart/items?x=1", headers={"Host": "demo.localhost"}, json={})
    assert answer.status_code == 308 and answer.headers["location"] == "https://demo.localhost/api/v1/cart/items?x=1"
    answer = httpx.get(f"http://127.0.0.1:{public[1]}/")
    assert answer.status_code == 400 and answer.json()["code"] == "https-required"


# ---- callers with certificates ----

def calling(shop, port, folder=None, name=None):
    context = trusting(shop)
    if name:
        context.load_cert_chain(shop.folder / folder / f"{name}.pem", shop.folder / folder / f"{name}.key")
    with client(context) as c:
        return c.get(f"https://localhost:{port}/api/v1/products?limit=1")


def test_a_caller_with_a_certificate(shop, public):
    assert calling(shop, public[2], "tls", "caller").status_code == 200


@pytest.mark.parametrize("folder, name, code", [
    (None, None, "certificate-required"), ("tls", "expired", "certificate-invalid"), ("tls-stranger", "caller", "certificate-invalid")])
def test_a_caller_without_a_good_one(shop, public, folder, name, code):
    answer = calling(shop, public[2], folder, name)
    assert answer.status_code == 400 and answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == code
    assert answer.headers["x-content-type-options"] == "nosniff"


# ---- PostgreSQL ----

@pytest.fixture(scope="module")
def database(shop, authority):
    """The run's PostgreSQL with a certificate; the edge's role may only come in over TLS, with one of its own."""
    data = shop.folder / "postgres"
    hba = data / "pg_hba.conf"
    kept = hba.read_text()
    hba.write_text("hostssl all commerce_edge 127.0.0.1/32 scram-sha-256 clientcert=verify-ca\n"
                   "host all commerce_edge 127.0.0.1/32 reject\n" + kept)
    settings = {"ssl": "on", "ssl_cert_file": shop.folder / "tls" / "postgres.pem", "ssl_key_file": shop.folder / "tls" / "postgres.key",
                "ssl_ca_file": shop.folder / "tls" / "ca.pem"}
    with shop.db("postgres") as db:
        for name, value in settings.items():
            db.execute(f"ALTER SYSTEM SET {name} = '{value}'")
        db.execute("SELECT pg_reload_conf()")
    wait_for(lambda: shop.value("SHOW ssl") == "on", 10, "PostgreSQL speaks TLS")
    yield
    hba.write_text(kept)
    with shop.db("postgres") as db:
        for name in settings:
            db.execute(f"ALTER SYSTEM RESET {name}")
        db.execute("SELECT pg_reload_conf()")
    wait_for(lambda: shop.value("SHOW ssl") == "off", 10, "PostgreSQL is as before")
    shop.start("nginx")


NO_LANES = (r"(?m)^    commerce_postgres  .*\n.*;\n", "")


def lanes(shop, host="localhost", change=None):
    text = example(shop, "postgres-tls.conf", **{"db.example.com:5432": f"{host}:{shop.pg_port}"})
    if change:
        assert change[0] in text
        text = text.replace(*change)
    return {"http": text, "replace": [NO_LANES]}


@contextlib.contextmanager
def running(shop, **changes):
    """nginx under another configuration, ready or not, and none afterwards: PostgreSQL lets nobody in who speaks in the clear."""
    shop.stop("nginx")
    shop.configure(**changes)
    mark = shop.log_size()
    try:
        shop.run("start", "nginx")
        yield lambda: shop.log_file().read_bytes()[mark:].decode(errors="replace")
    finally:
        shop.stop("nginx")
        shop.configure()


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_postgres_over_tls(shop, database, host):
    with running(shop, **lanes(shop, host)):
        shop.ready()
        assert shop.edge().get("/api/v1/products", params={"limit": 1}).status_code == 200
        # a lane is ready with its first connection
        rows = wait_for(lambda: len(found := shop.rows(
            "SELECT s.ssl, s.version, s.client_dn FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid) "
            "WHERE a.usename = 'commerce_edge' AND a.application_name LIKE 'nginx-commerce%%'")) > 5 and found, 20, "more connections")
        assert {(r["ssl"], r["version"], r["client_dn"]) for r in rows} == {(True, "TLSv1.3", "/CN=commerce_edge")}


@pytest.mark.parametrize("what, change, said", [
    ("another authority", ("sslrootcert={tls}/ca.pem", "sslrootcert={tls}-stranger/ca.pem"), "certificate verify failed"),
    ("no certificate of ours", ("sslcert={tls}/edge.pem sslkey={tls}/edge.key", ""), "certificate|pg_hba.conf"),
    ("not encrypted", ("sslmode=verify-full", "sslmode=disable"), "pg_hba.conf rejects"),
])
def test_postgres_that_cannot_be_trusted(shop, database, what, change, said):
    """Nothing is sent to it; the edge lives, its health is truthful, and the log says why."""
    change = tuple(part.format(tls=shop.folder / "tls") for part in change)
    with running(shop, **lanes(shop, change=change)) as log:
        wait_for(lambda: re.search(said, log()), 20, f"the log says {said}")
        answer = shop.edge().get("/health/ready")
        assert answer.status_code == 503, what
        assert shop.edge().get("/health/live").status_code == 200
        answer = shop.edge().get("/api/v1/products/by-slug/nothing")
        assert answer.status_code == 503 and answer.headers["content-type"] == "application/problem+json"
        assert (shop.folder / "secrets" / "edge").read_text().strip() not in log()


def test_a_name_that_is_not_the_certificates(shop, database):
    """verify-full: the right authority for another name is not good enough."""
    authority = Authority(shop.folder / "tls-name")
    shutil.copy(shop.folder / "tls" / "ca.pem", authority.folder / "ca.pem")
    shutil.copy(shop.folder / "tls" / "ca.key", authority.folder / "ca.key")
    owner = pwd.getpwuid((shop.folder / "tls" / "postgres.key").stat().st_uid).pw_name
    pem, key = authority.issue("other", "db.other.example", "DNS:db.other.example", owner=owner, mode=0o600)
    with shop.db("postgres") as db:
        db.execute(f"ALTER SYSTEM SET ssl_cert_file = '{pem}'")
        db.execute(f"ALTER SYSTEM SET ssl_key_file = '{key}'")
        db.execute("SELECT pg_reload_conf()")
    wait_for(lambda: shop.value("SHOW ssl_cert_file") == str(pem), 10, "PostgreSQL has the other certificate")
    try:
        with running(shop, **lanes(shop)) as log:
            wait_for(lambda: "does not match host name" in log(), 20, "the log says why")
            assert shop.edge().get("/health/ready").status_code == 503
    finally:
        with shop.db("postgres") as db:
            db.execute(f"ALTER SYSTEM SET ssl_cert_file = '{shop.folder}/tls/postgres.pem'")
            db.execute(f"ALTER SYSTEM SET ssl_key_file = '{shop.folder}/tls/postgres.key'")
            db.execute("SELECT pg_reload_conf()")
