"""What every answer carries: security headers at every status, CORS from the tenant's list."""

import re
import socket
import subprocess

import h2.config
import h2.connection
import httpx
import pytest

from stack import ROOT, SLOW, free_ports, wait_for
from world import made

SECURITY = {
    "x-content-type-options": "nosniff", "x-frame-options": "DENY", "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-site", "permissions-policy": "interest-cohort=()",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
}
ORIGIN = "https://shop.example"
SERVER = """
    location = /moved { return 301 /elsewhere; }
    location = /gone { return 410 "gone"; }
    location = /teapot { return 418 "teapot"; }
    location = /empty { return 204; }
    location = /broken { proxy_pass http://127.0.0.1:1; }
    location = /mine { add_header X-Mine yes; commerce_security_header X-Frame-Options SAMEORIGIN;
                       commerce_security_header Referrer-Policy ""; return 200 "mine"; }
    location = /backend { proxy_pass http://127.0.0.1:%(port)s/said; }
    location = /said { commerce_security_headers off; add_header X-Frame-Options "ALLOW-FROM x"; return 200 "said"; }
    location = /off { commerce_security_headers off; commerce_cors off; return 200 "off"; }
    location = /small { client_max_body_size 1; proxy_pass http://127.0.0.1:1; }
"""


@pytest.fixture(scope="module")
def site(shop):
    shop.configure(server=SERVER % {"port": shop.port})
    shop.reload()
    with shop.staff() as staff:
        etag = staff.get("/api/v1/admin/settings").headers["ETag"]
        made(staff.patch("/api/v1/admin/settings", json={"cors_origins": [ORIGIN, "http://localhost:5173"]},
                         headers={"If-Match": etag}))
    with shop.edge() as edge:
        wait_for(lambda: "access-control-allow-origin" in edge.get("/health/live", headers={"Origin": ORIGIN}).headers, 5,
                 "the edge knows the origins")
    yield shop


def of(answer):
    """Headers of a raw answer; one that comes twice is a fault."""
    head = answer.partition(b"\r\n\r\n")[0].decode("latin-1")
    lines = [line.split(":", 1) for line in head.split("\r\n")[1:]]
    names = [name.lower() for name, _ in lines]
    for name in set(names) & set(SECURITY):
        assert names.count(name) == 1, f"{name} twice:\n{head}"
    return int(head.split()[1]), {name.lower(): value.strip() for name, value in lines}


def secure(headers, except_=()):
    assert {name: headers.get(name) for name in SECURITY if name not in except_} == \
        {name: value for name, value in SECURITY.items() if name not in except_}
    assert "strict-transport-security" not in headers       # no TLS here


@pytest.mark.parametrize("status,request_", [
    (200, "GET /api/v1/products HTTP/1.1\r\nHost: x"), (200, "HEAD /api/v1/products HTTP/1.1\r\nHost: x"),
    (204, "OPTIONS /api/v1/products HTTP/1.1\r\nHost: x"), (204, "GET /empty HTTP/1.1\r\nHost: x"),
    (301, "GET /moved HTTP/1.1\r\nHost: x"),
    (403, "GET /media/ HTTP/1.1\r\nHost: x"), (400, "GET / HTTP/1.1"), (400, "GET / HTTP/1.1\r\nHost: a\r\nHost: b"),
    (400, "GET /\x01 HTTP/1.1\r\nHost: x"), (400, "rubbish"), (401, "GET /api/v1/orders HTTP/1.1\r\nHost: x"),
    (401, "GET /api/v1/orders HTTP/1.1\r\nHost: x\r\nX-API-Key: x"), (404, "GET /nothing HTTP/1.1\r\nHost: x"),
    (404, "GET /media/nothing.svg HTTP/1.1\r\nHost: x"), (405, "DELETE /api/v1/cart/items HTTP/1.1\r\nHost: x"),
    (410, "GET /gone HTTP/1.1\r\nHost: x"),
    (413, "POST /small HTTP/1.1\r\nHost: x\r\nContent-Length: 9"),
    (414, "GET /" + "a" * 20000 + " HTTP/1.1\r\nHost: x"),
    (418, "GET /teapot HTTP/1.1\r\nHost: x"), (422, "GET /api/v1/products?limit=x HTTP/1.1\r\nHost: x"),
    (400, "GET / HTTP/1.1\r\nHost: x\r\nX-Long: " + "a" * 20000), (501, "GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: rot13"),
    (502, "GET /broken HTTP/1.1\r\nHost: x"), (505, "GET / HTTP/3.0\r\nHost: x"),
], ids=lambda v: str(v)[:40] if isinstance(v, str) else v)
def test_every_status(site, status, request_):
    site.expect_log("(connect|recv)\\(\\) failed|directory index|not found|unknown transfer")
    line, _, rest = request_.partition("\r\n")
    text = "\r\n".join([line, *([rest] if rest else []), "Connection: close"]) + "\r\n\r\n"
    got, headers = of(site.raw(text.encode("latin-1")))
    if request_.startswith("GET /api/v1/products?limit"):
        assert got in (400, 422)
    else:
        assert got == status
    secure(headers)


def test_not_modified_and_ranges(site):
    with site.edge() as edge:
        answer = edge.post("/api/v1/cart/items", content="x", headers={"Content-Type": "text/plain"})
        assert answer.status_code == 415
        secure(answer.headers)
        first = edge.get("/api/v1/products/1")
        answer = edge.get("/api/v1/products/1", headers={"If-None-Match": first.headers["ETag"], "Origin": ORIGIN})
        assert answer.status_code == 304
        secure(answer.headers)
        assert answer.headers["access-control-allow-origin"] == ORIGIN
        name = sorted((site.folder / "media").rglob("*.svg"))
        if name:
            path = "/media/" + str(name[0].relative_to(site.folder / "media"))
            whole = edge.get(path)
            secure(whole.headers)
            for extra, status in (({"If-Modified-Since": whole.headers["Last-Modified"]}, 304), ({"Range": "bytes=0-3"}, 206),
                                  ({"Range": "bytes=999999-"}, 416)):
                part = edge.get(path, headers=extra)
                assert part.status_code == status
                secure(part.headers)


def test_a_location_changes_one_and_keeps_the_rest(site):
    with site.edge() as edge:
        answer = edge.get("/mine")
        assert answer.headers["x-mine"] == "yes" and answer.headers["x-frame-options"] == "SAMEORIGIN"
        assert "referrer-policy" not in answer.headers
        secure(answer.headers, ("x-frame-options", "referrer-policy"))
        answer = edge.get("/backend")
        assert answer.text == "said" and answer.headers.get_list("x-frame-options") == ["ALLOW-FROM x"]
        answer = edge.get("/off", headers={"Origin": ORIGIN})
        assert not set(answer.headers) & (set(SECURITY) | {"access-control-allow-origin"}) and "Origin" not in answer.headers.get("vary", "")


# ---- CORS ----


def cors(answer):
    return {k: v for k, v in answer.headers.items() if k.startswith("access-control-")}


@pytest.mark.parametrize("path,status,extra", [
    ("/api/v1/products", 200, {}), ("/api/v1/orders", 401, {}), ("/nothing", 404, {}), ("/api/v1/products", 401, {"X-API-Key": "x"}),
    ("/gone", 410, {}), ("/broken", 502, {}), ("/api/v1/products/0", 404, {}), ("/moved", 301, {}), ("/health/live", 200, {}),
])
def test_an_origin_on_the_list_reads_errors_too(site, path, status, extra):
    site.expect_log("connect\\(\\) failed")
    with site.edge() as edge:
        for origin, allowed in ((ORIGIN, True), ("http://localhost:5173", True), ("https://shop.example.evil.com", False),
                                ("https://SHOP.example", False), ("http://shop.example", False), ("https://shop.example:444", False),
                                ("null", False), ("*", False), ("", False), ('https://shop.example","', False),
                                (f"{ORIGIN} {ORIGIN}", False), ("https://shop.exampl", False)):
            answer = edge.get(path, headers={**extra, "Origin": origin})
            assert answer.status_code in ((status, 422) if path.endswith("/0") else (status,)), answer.text
            assert "Origin" in ", ".join(answer.headers.get_list("vary"))
            found = cors(answer)
            if not allowed:
                assert not found, origin
                continue
            assert found["access-control-allow-origin"] == origin and "access-control-allow-credentials" not in found
            shown = {name.strip().lower() for name in found["access-control-expose-headers"].split(",")}
            assert {"ratelimit", "ratelimit-policy", "retry-after", "link", "etag", "x-correlation-id", "idempotent-replayed"} <= shown
        assert not cors(edge.get(path, headers=extra)) and "Origin" in ", ".join(edge.get(path, headers=extra).headers.get_list("vary"))


def test_a_list_is_of_its_tenant(site):
    with site.edge(tenant="acme") as edge:
        assert not cors(edge.get("/api/v1/products", headers={"Origin": ORIGIN}))
        assert not cors(edge.options("/api/v1/products", headers={"Origin": ORIGIN, "Access-Control-Request-Method": "GET"}))


def test_preflight(site):
    ask = {"Origin": ORIGIN, "Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "authorization, if-match"}
    with site.edge() as edge:
        answer = edge.options("/api/v1/products/1", headers=ask)
        found = cors(answer)
        assert answer.status_code == 204 and found["access-control-allow-origin"] == ORIGIN
        assert {"GET", "PUT", "PATCH", "DELETE"} <= set(found["access-control-allow-methods"].split(", "))
        takes = {name.strip().lower() for name in found["access-control-allow-headers"].split(",")}
        assert {"authorization", "content-type", "idempotency-key", "if-match", "x-api-key", "x-cart-token"} <= takes
        assert "*" not in str(found) and int(found["access-control-max-age"]) > 0
        assert not cors(edge.options("/api/v1/products/1", headers={**ask, "Origin": "https://evil.example"}))
        assert "access-control-allow-methods" not in cors(edge.options("/nothing", headers=ask))


def test_preflight_where_only_a_key_will_tell(site):
    """A host name of no tenant: any tenant's origin may try, the answer itself is for its own tenant's origins."""
    with site.configured(replace=[(r"commerce_tenant\s+demo;", "")]), site.edge() as edge, site.staff() as staff:
        staff.headers["Host"] = "demo.localhost"
        ask = {"Origin": ORIGIN, "Access-Control-Request-Method": "GET"}
        assert cors(edge.options("/api/v1/products", headers=ask))["access-control-allow-origin"] == ORIGIN
        assert not cors(edge.options("/api/v1/products", headers={**ask, "Origin": "https://nobody.example"}))
        for tenant, allowed in (("demo", True), ("acme", False)):
            with site.staff(tenant) as who:
                who.headers["Host"] = f"{tenant}.localhost"
                key = made(who.post("/api/v1/admin/api-keys", json={"kind": "publishable", "name": "Browser"}), 201)["key"]
            wait_for(lambda key=key: edge.get("/api/v1/products", headers={"X-API-Key": key}).status_code == 200, 5)
            answer = edge.get("/api/v1/products", headers={"X-API-Key": key, "Origin": ORIGIN})
            assert ("access-control-allow-origin" in cors(answer)) == allowed
    site.configure(server=SERVER % {"port": site.port})
    site.reload()


def test_preflight_where_a_key_may_tell_another_than_the_default(site):
    """demo is the default for names that nobody has, and a browser with a key of acme may come there."""
    mine = "https://acme-only.example"
    with site.staff("acme") as staff, site.edge() as edge:
        etag = staff.get("/api/v1/admin/settings").headers["ETag"]
        made(staff.patch("/api/v1/admin/settings", json={"cors_origins": [mine]}, headers={"If-Match": etag}))
        ask = {"Origin": mine, "Access-Control-Request-Method": "GET"}
        wait_for(lambda: cors(edge.options("/api/v1/products", headers={**ask, "Host": "nobody.example"})), 5)
        assert not cors(edge.options("/api/v1/products", headers={**ask, "Host": "demo.localhost"}))
        assert not cors(edge.get("/api/v1/products", headers={"Origin": mine, "Host": "nobody.example"}))
        key = made(staff.post("/api/v1/admin/api-keys", json={"kind": "publishable", "name": "Browser"}), 201)["key"]
        asked = {"Origin": mine, "Host": "nobody.example", "X-API-Key": key}
        wait_for(lambda: cors(edge.get("/api/v1/products", headers=asked)).get("access-control-allow-origin") == mine, 5)


def test_credentials_are_the_shop_s_decision(site):
    with site.staff() as staff, site.edge() as edge:
        for wanted in (True, None):
            etag = staff.get("/api/v1/admin/settings").headers["ETag"]
            made(staff.patch("/api/v1/admin/settings", json={"cors_credentials": wanted}, headers={"If-Match": etag}))
            wait_for(lambda wanted=wanted: ("access-control-allow-credentials" in cors(edge.get("/health/live", headers={"Origin": ORIGIN})))
                     == bool(wanted), 5)
        assert not cors(edge.get("/health/live", headers={"Origin": "https://evil.example"}))


# ---- HTTP/2, TLS ----


def test_http2_and_tls(site):
    plain, tls = free_ports(2)
    crt, key = site.folder / "test.crt", site.folder / "test.key"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
                    "-subj", "/CN=localhost", "-keyout", key, "-out", crt], check=True, capture_output=True)
    server = "server {{ listen 127.0.0.1:{} {}; commerce_tenant demo; include {}/server.conf; location / {{ commerce_api; }} {} }}"
    with site.configured(http=server.format(plain, "http2", site.conf, "location = /moved { return 301 /x; }")
                         + server.format(tls, "ssl", site.conf, f"ssl_certificate {crt}; ssl_certificate_key {key};")):
        for path, status in (("/api/v1/products", 200), ("/nothing", 404), ("/api/v1/orders", 401), ("/moved", 301)):
            found = h2_headers(plain, path)
            assert found[":status"] == str(status)
            secure(found)
            assert found["access-control-allow-origin"] == ORIGIN
        with httpx.Client(verify=False) as c:
            for path in ("/api/v1/products", "/nothing"):
                answer = c.get(f"https://127.0.0.1:{tls}{path}")
                assert answer.headers["strict-transport-security"] == "max-age=31536000; includeSubDomains"


def h2_headers(port, path):
    c = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
    c.initiate_connection()
    with socket.create_connection(("127.0.0.1", port), timeout=10 * SLOW) as s:
        c.send_headers(1, [(":method", "GET"), (":path", path), (":authority", "demo.localhost"), (":scheme", "http"),
                           ("origin", ORIGIN)], end_stream=True)
        s.sendall(c.data_to_send())
        while data := s.recv(65536):
            for event in c.receive_data(data):
                if type(event).__name__ == "ResponseReceived":
                    names = [name for name, _ in event.headers]
                    assert all(names.count(name) == 1 for name in SECURITY)
                    return dict(event.headers)
            s.sendall(c.data_to_send())
    raise AssertionError("no answer")


# ---- the page of the directives ----


def examples(page):
    """Indented blocks that a comment declares to be run: (where, text)."""
    return re.findall(r"<!-- example: (\w+) -->\n\n((?:    .*\n|\n)+)", page)


def test_the_examples_of_the_page_run(site):
    page = (ROOT / "docs/directives/tenants.md").read_text()
    found = examples(page)
    assert [where for where, _ in found] == ["http", "server"]
    http, server = (text for _, text in found)
    port, backend = free_ports(2)
    server = server.replace("/srv/shop", str(site.folder)).replace("127.0.0.1:8080", f"127.0.0.1:{backend}")
    echo = (f'server {{ listen 127.0.0.1:{backend}; location / {{ return 200 "$http_x_tenant $http_x_language $http_x_search"; }} }}')
    with site.configured(http=f"{http}\nserver {{ listen 127.0.0.1:{port}; {server} }}\n{echo}"):
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers={"Host": "acme.shops.example.com"}) as c:
            assert c.get("/api/v1/categories").status_code == 200
            assert c.get("/blog/").text == "2 en old"
            secure(c.get("/blog/").headers)
            media = c.get("/media/none.svg")
            assert media.headers["cross-origin-resource-policy"] == "cross-origin"
            assert media.headers["content-security-policy"] == "default-src 'self'"
            secure(media.headers, ("cross-origin-resource-policy", "content-security-policy"))
            assert c.get("/api/v1/categories", headers={"Host": "x.acme.shops.example.com"}).status_code == 404
