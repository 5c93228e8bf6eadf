"""commerce_auth in locations that are not the API's: backends, files, subrequests, satisfy, error pages, HTTP/2."""

import http.server
import json
import re
import subprocess
import threading
import uuid

import httpx
import pytest

from stack import free_ports, wait_for

USER = "0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b"


class Echo(http.server.BaseHTTPRequestHandler):
    """A backend that tells what it was sent."""
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = json.dumps({"path": self.path, "headers": [[k.lower(), v] for k, v in self.headers.items()]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_PUT = do_DELETE = do_GET

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def backend():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


LOCATIONS = """
location /off/       { proxy_pass @backend@; }
location /open/      { commerce_auth optional; proxy_pass @backend@; include @conf@/identity.conf; }
location /closed/    { commerce_auth required; proxy_pass @backend@; include @conf@/identity.conf; }
location /staff/     { commerce_auth required role=staff,owner; proxy_pass @backend@; }
location /orders/    { commerce_auth required role=staff,owner permission=orders.read; proxy_pass @backend@; }
location /scope/     { commerce_auth required scope=orders.read,orders.write; proxy_pass @backend@; }
location /tenant/1/  { commerce_auth required tenant=2; proxy_pass @backend@; }
location /tenant/2/  { commerce_auth required tenant=acme; proxy_pass @backend@; }
location /tenant/3/  { commerce_auth required tenant=host; proxy_pass @backend@; }
location /tenant/4/  { commerce_auth required tenant=$arg_t; proxy_pass @backend@; }

location /claims/ {
    commerce_auth          required;
    commerce_auth_require  level 3 4;
    commerce_auth_require  groups ~^eng- ~*^ADMINS$;
    proxy_pass             @backend@;

    location /claims/inner/   { proxy_pass @backend@; }
    location /claims/other/   { commerce_auth_require owner $arg_owner; proxy_pass @backend@; }
    location /claims/exempt/  { commerce_auth off; proxy_pass @backend@; }
}

location /files/     { commerce_auth required; alias @files@/; }

location /any/       { satisfy any; allow 127.0.0.2; deny all; commerce_auth required; proxy_pass @backend@; }
location /anyopen/   { satisfy any; deny all; commerce_auth optional; proxy_pass @backend@; }
location /all/       { satisfy all; allow 127.0.0.1; deny all; commerce_auth required; proxy_pass @backend@; }
location /basic/     { satisfy any; auth_basic "b"; auth_basic_user_file @files@/htpasswd; commerce_auth required;
                       proxy_pass @backend@; }

location /method/    { limit_except GET { commerce_auth required role=staff; } proxy_pass @backend@; }
location /method2/   { commerce_auth required; limit_except POST { commerce_auth off; } proxy_pass @backend@; }

location /page/      { commerce_auth required; error_page 401 403 = /page_body; proxy_pass @backend@; }
location = /page_body { internal; return 418 "who are you, $arg_x$commerce_auth_status"; }
location /named/     { commerce_auth required; error_page 401 @named; proxy_pass @backend@; }
location @named      { proxy_pass @backend@; }

location /redirect/  { commerce_auth off; rewrite ^/redirect/(.*)$ /closed/$1 last; }
location /tried/     { commerce_auth required; try_files /nothing @tried; }
location @tried      { proxy_pass @backend@; include @conf@/identity.conf; }

location /sub/       { auth_request /sub_check; auth_request_set $who $upstream_http_x_nothing; proxy_pass @backend@; }
location = /sub_check { internal; commerce_auth required role=staff; proxy_pass @backend@; proxy_pass_request_body off;
                        proxy_set_header Content-Length ""; }
location /mirrored/  { mirror /mirror_to; proxy_pass @backend@; }
location /mirror_to  { internal; commerce_auth required; proxy_pass @backend@; }

location /variables/ {
    commerce_auth optional;
    set $early $commerce_principal;
    add_header X-Early $early always;
    set $who "$commerce_auth_status|$commerce_principal|$commerce_roles|$commerce_permissions";
    add_header X-Line "$who|$commerce_token_tenant|$commerce_session" always;
    set $claims "$commerce_jwt_claim_name|$commerce_jwt_claim_level|$commerce_jwt_claim_groups";
    add_header X-Claims "$claims|$commerce_jwt_claim_flag|$commerce_jwt_claim_object|$commerce_jwt_claim_none" always;
    proxy_pass @backend@;
}
"""

LOG = """
log_format guard '$uri|$status|$commerce_auth_status|$commerce_principal';
"""


@pytest.fixture(scope="module")
def guard(shop, backend):
    files = shop.folder / "guarded"
    files.mkdir()
    files.chmod(0o755)
    (files / "page.txt").write_text("secret page")
    (files / "htpasswd").write_text("me:{PLAIN}pass\n")
    server = LOCATIONS.replace("@backend@", backend).replace("@files@", str(files)).replace("@conf@", str(shop.conf))
    log = shop.folder / "logs" / "guard.log"
    with shop.configured(http=LOG, server=f"access_log {log} guard;\n" + server):
        shop.guard_log = log
        shop.backend = backend
        yield shop


@pytest.fixture
def client(guard):
    with httpx.Client(base_url=guard.url) as client:
        yield client


def bearer(guard, *roles, tenant_id=1, **claims):
    return {"Authorization": "Bearer " + guard.token(USER, roles or ("customer",), tenant_id, **claims)}


def sent(answer):
    """What the backend was sent, by name."""
    assert answer.status_code == 200, answer.text
    return dict(answer.json()["headers"])


# ---- off, optional, required ----


def test_off_is_untouched(guard, client):
    assert client.get("/off/x").status_code == 200
    assert sent(client.get("/off/x", headers={"Authorization": "Bearer nonsense"}))["authorization"] == "Bearer nonsense"


def test_required(guard, client):
    answer = client.get("/closed/x")
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == 'Bearer realm="nginx-commerce"'
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "unauthorized"

    answer = client.get("/closed/x", headers={"Authorization": "Bearer nonsense"})
    assert answer.status_code == 401
    assert answer.headers.get_list("www-authenticate") == ['Bearer realm="nginx-commerce", error="invalid_token"']

    answer = client.get("/closed/x", headers={"Authorization": "Basic bWU6cGFzcw=="})
    assert answer.status_code == 401
    assert client.get("/closed/x", headers=bearer(guard)).status_code == 200
    assert client.get("/closed/x", headers=bearer(guard, exp=1)).status_code == 401


def test_two_authorization_headers(guard, client):
    """nginx answers 400 by itself to the second of them; here that is a 401 like every other."""
    token = bearer(guard)["Authorization"]
    for first, second in ((token, token), (token, "Bearer x"), ("Basic eDp4", token), (token, "")):
        for path in ("/closed/x", "/off/x", "/api/v1/users/profile"):
            answer = guard.raw(f"GET {path} HTTP/1.1\r\nHost: demo.localhost\r\nAuthorization: {first}\r\n"
                               f"Authorization: {second}\r\nConnection: close\r\n\r\n".encode())
            assert answer.startswith(b"HTTP/1.1 401 "), answer
            assert answer.count(b"WWW-Authenticate: ") == 1 and b'error="invalid_token"' in answer
            assert b'"code":"unauthorized"' in answer


def test_optional(guard, client):
    assert "x-commerce-user" not in sent(client.get("/open/x"))
    assert sent(client.get("/open/x", headers=bearer(guard)))["x-commerce-user"] == USER
    assert client.get("/open/x", headers={"Authorization": "Bearer nonsense"}).status_code == 401
    assert client.get("/open/x", headers=bearer(guard, exp=1)).status_code == 401
    assert "x-commerce-user" not in sent(client.get("/open/x", headers={"Authorization": "Basic bWU6cGFzcw=="}))


def test_static_files(guard, client):
    assert client.get("/files/page.txt").status_code == 401
    assert client.get("/files/nothing.txt").status_code == 401, "what is there is nobody's to know"
    answer = client.get("/files/page.txt", headers=bearer(guard))
    assert answer.status_code == 200 and answer.text == "secret page"


# ---- what the backend may believe ----


def test_a_client_cannot_claim_to_be_somebody(guard, client):
    """Headers that the client makes up under the names that the backend trusts."""
    forged = {"X-Commerce-User": "admin", "x-commerce-roles": "owner", "X-COMMERCE-PERMISSIONS": "everything.write",
              "X-Commerce-Tenant": "2", "X-Commerce-Session": "mine", "X_Commerce_User": "admin", "X_Commerce_Roles": "owner"}
    anonymous = sent(client.get("/open/x", headers=forged))
    assert not [name for name in anonymous if name.replace("_", "-").startswith("x-commerce")]

    session = str(uuid.uuid4())
    got = client.get("/closed/x", headers={**forged, **bearer(guard, "customer", "staff", "orders.read", "catalog.read",
                                                             sid=session)}).json()["headers"]
    got = [(k, v) for k, v in got if k.replace("_", "-").startswith("x-commerce") or k == "authorization"]
    assert sorted(got) == [("x-commerce-permissions", "orders.read catalog.read"), ("x-commerce-roles", "customer staff"),
                           ("x-commerce-session", session), ("x-commerce-tenant", "1"), ("x-commerce-user", USER)]


def test_claims_cannot_write_headers(guard, client):
    """A line break in a claim would end the header that it is put into."""
    for evil in ("Eve\r\nX-Role: owner", "Eve\nX-Role: owner", "Eve\x01", "Eve\x7f"):
        answer = client.get("/variables/x", headers=bearer(guard, name=evil))
        assert answer.status_code == 200
        assert "x-role" not in answer.headers and answer.headers["x-claims"].startswith("|")


# ---- roles, permissions, scopes, tenants, claims ----


@pytest.mark.parametrize("path,roles,status", [
    ("/staff/", ("customer",), 403), ("/staff/", ("staff",), 200), ("/staff/", ("owner",), 200),
    ("/staff/", ("staffer", "customer"), 403), ("/staff/", ("service",), 403),
    ("/orders/", ("staff",), 403), ("/orders/", ("staff", "orders.read"), 200), ("/orders/", ("owner",), 200),
    ("/orders/", ("customer", "orders.read"), 403), ("/orders/", ("staff", "orders.write"), 403),
    ("/scope/", ("customer", "orders.write"), 200), ("/scope/", ("owner",), 403), ("/scope/", ("customer", "orders.reader"), 403),
])
def test_roles_permissions_scopes(guard, client, path, roles, status):
    answer = client.get(path, headers=bearer(guard, *roles))
    assert answer.status_code == status
    if status == 403:
        challenge = answer.headers["www-authenticate"]
        assert challenge.startswith('Bearer realm="nginx-commerce", error="insufficient_scope"')
        if path == "/scope/":
            assert challenge.endswith(', scope="orders.read orders.write"')
        assert answer.json()["code"] == "forbidden"


def test_tenants(guard, client):
    first, second = bearer(guard), bearer(guard, tenant_id=2)
    nobody = bearer(guard, tid=None)
    for path in ("/tenant/1/", "/tenant/2/", "/tenant/4/?t=2", "/tenant/4/?t=acme"):
        assert client.get(path, headers=second).status_code == 200, path
        assert client.get(path, headers=first).status_code == 403, path
        assert client.get(path, headers=nobody).status_code == 403, path
    for path in ("/tenant/4/", "/tenant/4/?t=", "/tenant/4/?t=nowhere", "/tenant/4/?t=02"):
        assert client.get(path, headers=second).status_code == 403, path
    assert client.get("/tenant/3/", headers={**second, "Host": "acme.localhost"}).status_code == 200
    assert client.get("/tenant/3/", headers={**first, "Host": "acme.localhost"}).status_code == 403
    assert client.get("/tenant/3/", headers={**first, "Host": "nowhere.example"}).status_code == 403
    assert client.get("/tenant/3/", headers=nobody).status_code == 403


@pytest.mark.parametrize("claims,status", [
    ({"level": 3, "groups": ["eng-core"]}, 200),
    ({"level": 4, "groups": ["sales", "eng-core"]}, 200),
    ({"level": "4", "groups": "eng-core"}, 200),
    ({"level": 4, "groups": ["admins"]}, 200),
    ({"level": 5, "groups": ["eng-core"]}, 403),
    ({"level": 34, "groups": ["eng-core"]}, 403),
    ({"level": 3}, 403),
    ({"groups": ["eng-core"]}, 403),
    ({"level": 3, "groups": []}, 403),
    ({"level": 3, "groups": ["beng-core"]}, 403),
    ({"level": 3, "groups": {"eng-core": True}}, 403),
    ({"level": [[3]], "groups": ["eng-core"]}, 403),
    ({"level": None, "groups": ["eng-core"]}, 403),
])
def test_claims(guard, client, claims, status):
    headers = bearer(guard, **claims)
    assert client.get("/claims/", headers=headers).status_code == status
    assert client.get("/claims/inner/", headers=headers).status_code == status
    assert client.get("/claims/exempt/").status_code == 200


def test_claim_equal_to_a_variable(guard, client):
    assert client.get("/claims/other/?owner=me", headers=bearer(guard, owner="me")).status_code == 200
    assert client.get("/claims/other/?owner=you", headers=bearer(guard, owner="me")).status_code == 403
    # an empty variable is nobody
    assert client.get("/claims/other/", headers=bearer(guard, owner="")).status_code == 403
    assert client.get("/claims/other/", headers=bearer(guard)).status_code == 403


# ---- with nginx's own ----


def test_satisfy(guard):
    with httpx.Client(base_url=guard.url, transport=httpx.HTTPTransport(local_address="127.0.0.2")) as other:
        assert other.get("/any/").status_code == 200
        assert "www-authenticate" not in other.get("/any/").headers
        assert other.get("/all/", headers=bearer(guard)).status_code == 403
        assert other.get("/all/").status_code in (401, 403)
    client = httpx.Client(base_url=guard.url, transport=httpx.HTTPTransport(local_address="127.0.0.1"))
    assert client.get("/any/").status_code == 401
    assert client.get("/any/", headers=bearer(guard)).status_code == 200
    # nobody does not satisfy
    assert client.get("/anyopen/").status_code == 403
    assert client.get("/anyopen/", headers=bearer(guard)).status_code == 200
    assert client.get("/all/").status_code == 401
    assert client.get("/all/", headers=bearer(guard)).status_code == 200
    assert client.get("/basic/").status_code == 401
    assert client.get("/basic/", auth=("me", "pass")).status_code == 200
    assert client.get("/basic/", headers=bearer(guard)).status_code == 200
    assert client.get("/basic/", auth=("me", "wrong")).status_code == 401
    client.close()


def test_limit_except(guard, client):
    assert client.get("/method/").status_code == 200
    assert client.head("/method/").status_code in (200, 501)
    assert client.post("/method/").status_code == 401
    assert client.post("/method/", headers=bearer(guard)).status_code == 403
    assert client.post("/method/", headers=bearer(guard, "staff")).status_code == 200
    assert client.get("/method2/").status_code == 200
    assert client.post("/method2/").status_code == 401


def test_error_pages(guard, client):
    answer = client.get("/page/")
    assert (answer.status_code, answer.text) == (418, "who are you, none")
    assert client.get("/page/", headers={"Authorization": "Bearer x"}).text == "who are you, invalid"
    assert client.get("/page/", headers=bearer(guard)).status_code == 200
    answer = client.get("/named/")
    assert answer.status_code == 401 and "headers" in answer.json()
    assert answer.headers["www-authenticate"] == 'Bearer realm="nginx-commerce"'


def test_internal_redirects(guard, client):
    assert client.get("/redirect/x").status_code == 401
    assert sent(client.get("/redirect/x", headers=bearer(guard)))["x-commerce-user"] == USER
    assert client.get("/tried/x").status_code == 401
    # the verdict outlives the redirect
    assert sent(client.get("/tried/x", headers=bearer(guard)))["x-commerce-user"] == USER


def test_subrequests_are_guarded(guard, client):
    """nginx leaves the access phase out in subrequests."""
    answer = client.get("/sub/")
    assert answer.status_code == 401
    assert answer.headers.get_list("www-authenticate") == ['Bearer realm="nginx-commerce"']
    assert client.get("/sub/", headers=bearer(guard)).status_code == 403
    assert client.get("/sub/", headers={"Authorization": "Bearer x"}).status_code == 401
    assert client.get("/sub/", headers=bearer(guard, "staff")).status_code == 200
    assert client.get("/mirrored/").status_code == 200
    assert client.get("/mirrored/", headers=bearer(guard)).status_code == 200


def test_http2(guard, backend, shop):
    """Over HTTP/2 headers have another way into nginx."""
    port, = free_ports(1)
    files = shop.folder / "guarded"
    server = f"""server {{ listen 127.0.0.1:{port} http2; commerce_tenant demo;
        location / {{ commerce_auth required; proxy_pass {backend}; include {shop.conf}/identity.conf; }} }}"""
    extra = LOCATIONS.replace("@backend@", backend).replace("@files@", str(files)).replace("@conf@", str(shop.conf))
    shop.configure(http=LOG + server, server=f"access_log {shop.guard_log} guard;\n" + extra)
    shop.reload()

    def ask(*headers):
        command = ["curl", "-s", "-o", "/dev/stdout", "-w", "%{http_code} %{http_version}", "--http2-prior-knowledge"]
        for header in headers:
            command += ["-H", header]
        return subprocess.run([*command, f"http://127.0.0.1:{port}/x"], capture_output=True, text=True, check=True).stdout

    token = bearer(guard)["Authorization"]
    assert ask().endswith("401 2")
    assert ask("Authorization: Bearer x").endswith("401 2")
    answer = ask(f"Authorization: {token}", "X-Commerce-User: admin")
    assert answer.endswith("200 2") and USER in answer and '"admin"' not in answer
    # nginx itself refuses the second one
    assert ask(f"Authorization: {token}", f"Authorization: {token}").endswith("400 2")


# ---- variables ----


def test_variables(guard, client):
    session = str(uuid.uuid4())
    answer = client.get("/variables/", headers=bearer(
        guard, "customer", "staff", "orders.read", sid=session, name="Zoë", level=3.5, groups=["a", "b"], flag=True,
        object={"a": 1}, none=None))
    assert answer.headers["x-line"] == f"ok|{USER}|customer staff|orders.read|1|{session}"
    assert answer.headers["x-early"] == USER
    assert answer.headers["x-claims"] == 'Zoë|3.5|a,b|true|{"a":1}|'

    assert client.get("/variables/").headers["x-line"] == "none|||||"
    assert client.get("/page/", headers=bearer(guard, exp=1)).text == "who are you, expired"
    # an array with a comma in an element stays what it is
    assert '|["a,b"]|' in client.get("/variables/", headers=bearer(guard, groups=["a,b"])).headers["x-claims"]


def test_access_log(guard, client):
    client.get("/orders/logged", headers=bearer(guard, "staff"))
    client.get("/closed/logged")
    client.get("/closed/logged", headers=bearer(guard))
    client.get("/off/logged", headers=bearer(guard))
    # a refusal is logged under the address of its error page, after an internal redirect
    want = {f"/_problem|403|forbidden|{USER}", "/_problem|401|none|-", f"/closed/logged|200|ok|{USER}", "/off/logged|200|-|-"}
    wait_for(lambda: want <= set(guard.guard_log.read_text().splitlines()), 5, f"{want} in the log")


# ---- configuration ----


@pytest.mark.parametrize("text,message", [
    ("location /c/ { commerce_auth; }", "invalid number of arguments"),
    ("location /c/ { commerce_auth on; }", 'begins with "off", "optional" or "required", not with "on"'),
    ("location /c/ { commerce_auth role=staff; }", 'begins with "off", "optional" or "required"'),
    ("location /c/ { commerce_auth optional role=staff; }", 'write "commerce_auth required role=staff"'),
    ("location /c/ { commerce_auth off role=staff; }", 'write "commerce_auth required role=staff"'),
    ("location /c/ { commerce_auth required; commerce_auth off; }", '"commerce_auth" directive is duplicate'),
    ("location /c/ { commerce_auth required user=me; }", "takes role=NAME, permission=NAME, scope=NAME and tenant="),
    ("location /c/ { commerce_auth required role=; }", "takes role=NAME"),
    ("location /c/ { commerce_auth required role=Staff; }", '"Staff" in "Staff" can be in no token'),
    ("location /c/ { commerce_auth required role=a,,b; }", "can be in no token"),
    ("location /c/ { commerce_auth required role=a,; }", "can be in no token"),
    ("location /c/ { commerce_auth required tenant=1 tenant=2; }", 'takes one "tenant="'),
    ("location /c/ { commerce_auth required tenant=$nothing; }", 'unknown "nothing" variable'),
    ("location /c/ { commerce_auth_require level 3; }", 'commerce_auth_require in "/c/" lets everybody in who sends no token'),
    ("location /c/ { commerce_auth optional; commerce_auth_require level 3; }", 'add "commerce_auth required;"'),
    ("location /c/ { commerce_auth required; commerce_auth_require level; }", "invalid number of arguments"),
    ("location /c/ { commerce_auth required; commerce_auth_require level ~[; }", "missing terminating ]"),
    ("location /c/ { if ($arg_x) { commerce_auth required; } }", '"commerce_auth" directive is not allowed here'),
    ("location /c/ { commerce_jwks; commerce_api; }", "conflicts with another handler"),
    ("commerce_jwks;", '"commerce_jwks" directive is not allowed here'),
])
def test_bad_configuration_names_the_cure(guard, text, message):
    done = refused(guard, server=text)
    assert message in done


@pytest.mark.parametrize("text,message", [
    ("commerce_revocation_zone 1k;", 'write for example "commerce_revocation_zone 1m;"'),
    ("commerce_revocation_zone many;", 'write for example "commerce_revocation_zone 1m;"'),
    ("commerce_revocation_zone 1m; commerce_revocation_zone 2m;", '"commerce_revocation_zone" directive is duplicate'),
])
def test_bad_zones(guard, text, message):
    assert message in refused(guard, http=text)


def refused(guard, **changes):
    conf = {name: (guard.folder / "nginx" / f"{name}.d" / "test.conf") for name in ("http", "server")}
    kept = {name: path.read_text() for name, path in conf.items()}
    try:
        for name, text in changes.items():
            conf[name].write_text(text + "\n")
        guard.expect_log(r"nginx/(http|server)\.d/test\.conf:1$|unknown \"nothing\" variable|commerce_auth_require in \"/c/\"")
        done = guard.check_conf()
        assert done.returncode != 0
        return done.stdout + done.stderr
    finally:
        for name, path in conf.items():
            path.write_text(kept[name])


def test_no_key(guard):
    """A guard without keys would refuse everybody: nginx says so instead of starting."""
    conf = guard.conf / "nginx.conf"
    kept = conf.read_text()
    try:
        conf.write_text(re.sub(r"commerce_jwt_key .*;", "", kept))
        guard.expect_log("commerce_auth needs a key")
        done = guard.check_conf()
        assert done.returncode != 0 and "commerce_auth needs a key to verify tokens with" in done.stdout + done.stderr
    finally:
        conf.write_text(kept)


# ---- the set of public keys ----


def test_jwks_never_tells_a_secret(guard, client):
    answer = client.get("/.well-known/jwks.json")
    assert answer.status_code == 200 and answer.json() == {"keys": []}, "k1 is HS256"
