"""HTTP as the contract promises it: methods, problem documents, strict input, tracing, cursors, tenants."""

import concurrent.futures
import json
import re
import secrets
import uuid

import httpx
import pytest


@pytest.fixture(scope="module", autouse=True)
def still(quiet):
    """Lists show what was sold when the housekeeping says so: not between two answers that a test compares."""


UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def problem(answer, status, code=None):
    """Asserts a complete problem document and returns it."""
    assert answer.status_code == status, f"{answer.status_code} {answer.text}"
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["status"] == status
    assert body["title"] and body["type"] and body["code"]
    assert body["correlation_id"] == answer.headers["x-correlation-id"]
    for word in ("pg_", "plpgsql", "ngx_", "SELECT", "/home", "/work"):
        assert word not in answer.text
    if code:
        assert body["code"] == code, body
    return body


# ---- methods and addresses ----


@pytest.mark.parametrize("path", ["/api/v1/nothing", "/api/v2/products", "/nothing", "/api/v1/products/1/nothing",
                                  "/api/v1/products/../../etc/passwd", "/api/v1//products"])
def test_unknown_address(anyone, path):
    problem(anyone.get(path), 404)


def test_every_operation_of_the_contract_is_served(shop, anyone):
    """No operation answers 404 or 405 for its method; every other method answers 405 with Allow."""
    methods = {"get", "post", "put", "patch", "delete"}
    for path, item in shop.contract["paths"].items():
        known = methods & set(item)
        address = re.sub(r"\{[^}]+\}", "1", path)
        for method in methods - known:
            answer = anyone.request(method.upper(), address)
            # another template may take this address: /orders/{id} and /orders/user
            if answer.status_code != 405:
                continue
            allow = {word.strip() for word in answer.headers["allow"].split(",")}
            assert allow >= {m.upper() for m in known} | {"OPTIONS"}, path
            assert method.upper() not in allow
            problem(answer, 405, "method-not-allowed")
        options = anyone.options(address)
        assert options.status_code == 204, path
        assert {word.strip() for word in options.headers["allow"].split(",")} >= {m.upper() for m in known}, path
        if "get" in known:
            assert "HEAD" in options.headers["allow"]


def test_unknown_methods(shop):
    for method in (b"TRACE", b"CONNECT", b"BREW", b"PROPFIND"):
        answer = shop.raw(method + b" /api/v1/products HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert re.match(rb"HTTP/1\.1 (400|405|501) ", answer), answer[:200]
        assert method != b"TRACE" or (b" 405 " in answer and re.search(rb"\r\nAllow: GET, .*OPTIONS\r\n", answer)), answer


@pytest.mark.parametrize("path", ["/", "/health", "/health/live", "/health/ready", "/info", "/api/v1/products",
                                  "/api/v1/products/1", "/api/v1/categories"])
def test_head_is_get_without_body(anyone, path):
    get, head = anyone.get(path), anyone.head(path)
    assert (get.status_code, head.status_code, head.content) == (200, 200, b"")
    assert head.headers["content-length"] == get.headers["content-length"] or "health" in path
    assert head.headers["content-type"] == get.headers["content-type"] == "application/json"


def test_paths_without_version_are_deprecated_aliases(anyone):
    old, new = anyone.get("/api/products/1"), anyone.get("/api/v1/products/1")
    assert old.status_code == new.status_code == 200
    assert old.json() == new.json()
    assert "deprecation" in old.headers
    assert "deprecation" not in new.headers


def test_security_headers_on_every_status(anyone, shop):
    answers = [anyone.get("/api/v1/products"), anyone.get("/nothing"), anyone.get("/api/v1/orders"),
               anyone.get("/api/v1/products?limit=x")]
    assert [a.status_code for a in answers] == [200, 404, 401, 422]
    for answer in answers:
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["server"] == "nginx"


def test_what_nginx_refuses_is_a_problem_too(shop):
    for request, status in (
            (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
            (b"GET /" + b"x" * 20000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 414),
            (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 20000 + b"\r\n\r\n", 400),
            (b"POST /api/v1/auth/login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n", 413)):
        answer = shop.raw(request)
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.split()[1] == b"%d" % status, answer[:300]
        assert b"application/problem+json" in head, answer[:500]
        assert json.loads(body)["status"] in (status, 431)


# ---- tracing ----


def test_correlation_id(anyone, shop):
    given = anyone.get("/nothing", headers={"X-Correlation-ID": "shop.window_7-a"})
    assert given.headers["x-correlation-id"] == "shop.window_7-a"
    problem(given, 404)
    for bad in ("two words", "x" * 65, 'quote"', "<script>", ""):
        answer = anyone.get("/nothing", headers={"X-Correlation-ID": bad})
        assert UUID.fullmatch(answer.headers["x-correlation-id"])
    first, second = (anyone.get("/health/live").headers["x-correlation-id"] for _ in range(2))
    assert first != second


def test_correlation_id_and_trace_reach_the_events(shop, customer):
    trace = "0af7651916cd43dd8448eb211c80319c"
    headers = {"X-Correlation-ID": "events-1", "traceparent": f"00-{trace}-b7ad6b7169203331-01"}
    assert customer.post("/api/v1/cart/items", json={"product_id": 1, "quantity": 1}).status_code == 201
    answer = customer.post("/api/v1/checkout", json={}, headers=headers)
    assert answer.status_code == 201, answer.text
    rows = shop.rows("SELECT correlation_id, traceparent FROM event.outbox WHERE correlation_id = 'events-1'")
    assert rows
    for row in rows:
        version, trace_id, span, flags = row["traceparent"].split("-")
        assert (version, trace_id, flags) == ("00", trace, "01")
        assert span != "b7ad6b7169203331" and len(span) == 16


def test_access_log_is_json(shop, customer):
    log = shop.folder / "logs" / "access.log"
    # from here: workers that other files killed may have left a line unfinished
    mark = log.stat().st_size
    customer.get("/api/v1/users/profile", headers={"X-Correlation-ID": "log-1"})
    customer.get("/api/v1/nothing?q=%22%5c%01", headers={"X-Correlation-ID": "log-2", "User-Agent": 'a"b\\c\x7f'})

    def entries():
        lines = log.read_bytes()[mark:].rpartition(b"\n")[0].decode().splitlines()
        found = {e["correlation_id"]: e for e in map(json.loads, lines)}
        return found if {"log-1", "log-2"} <= set(found) else None

    from stack import wait_for
    found = wait_for(entries, 5, "access.log is flushed within a second")
    one = found["log-1"]
    assert one["tenant"] == "demo" and one["status"] == 200 and one["user"] == customer.user_id
    assert one["route"] == shop.contract["paths"]["/api/v1/users/profile"]["get"]["operationId"]
    assert one["request_time"] >= 0
    assert found["log-2"]["code"] == "not-found"


# ---- strict JSON ----

LOGIN = b'{"email":"nobody@example.com","password":"password"}'

HOSTILE = {
    "empty": (b"", 400),
    "white space": (b"  \n ", 400),
    "not JSON": (b"email=a&password=b", 400),
    "duplicate key": (b'{"email":"a@b.c","password":"x","email":"d@e.f"}', 400),
    "duplicate key, escaped": (b'{"email":"a@b.c","password":"x","em\\u0061il":"d@e.f"}', 400),
    "invalid UTF-8": (b'{"email":"a@b.c","password":"\xff"}', 400),
    "overlong UTF-8": (b'{"email":"a@b.c","password":"\xc0\xaf"}', 400),
    "surrogate in UTF-8": (b'{"email":"a@b.c","password":"\xed\xa0\x80"}', 400),
    "lone surrogate": (b'{"email":"a@b.c","password":"\\ud800"}', 400),
    "reversed surrogates": (b'{"email":"a@b.c","password":"\\udc00\\ud800"}', 400),
    "NUL escaped": (b'{"email":"a@b.c","password":"a\\u0000b"}', 400),
    "NUL": (b'{"email":"a@b.c","password":"a\x00b"}', 400),
    "control character": (b'{"email":"a@b.c","password":"a\x01b"}', 400),
    "newline in a string": (b'{"email":"a@b.c","password":"a\nb"}', 400),
    "byte order mark": (b"\xef\xbb\xbf" + LOGIN, 400),
    "UTF-16": (LOGIN.decode().encode("utf-16"), 400),
    "trailing bytes": (LOGIN + b"x", 400),
    "second document": (LOGIN + LOGIN, 400),
    "trailing comma": (b'{"email":"a@b.c","password":"x",}', 400),
    "comment": (b'{"email":"a@b.c",/**/"password":"x"}', 400),
    "single quotes": (b"{'email':'a@b.c','password':'x'}", 400),
    "bare NaN": (b'{"email":NaN,"password":"x"}', 400),
    "leading zero": (b'{"email":01,"password":"x"}', 400),
    "plus sign": (b'{"email":+1,"password":"x"}', 400),
    "hexadecimal": (b'{"email":0x10,"password":"x"}', 400),
    "bad escape": (b'{"email":"\\q","password":"x"}', 400),
    "cut off": (LOGIN[:-5], 400),
    "too deep": (b'{"email":' + b"[" * 40 + b"]" * 40 + b',"password":"x"}', 400),
    "too many members": (b'{"email":[' + b",".join([b"1"] * 1200) + b'],"password":"x"}', 400),
    "unknown member": (b'{"email":"a@b.c","password":"x","admin":true}', 422),
    "case of a member": (b'{"Email":"a@b.c","password":"x"}', 422),
    "missing member": (b'{"email":"a@b.c"}', 422),
    "wrong type": (b'{"email":1,"password":"x"}', 422),
    "null": (b'{"email":null,"password":"x"}', 422),
    "array": (b'["a@b.c","x"]', 422),
    "number": (b"1", 422),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_json(shop, name):
    body, status = HOSTILE[name]
    answer = shop.raw(b"POST /api/v1/auth/login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                      b"Content-Length: %d\r\n\r\n" % len(body) + body)
    head, _, text = answer.partition(b"\r\n\r\n")
    assert head.split()[1] == b"%d" % status, answer.decode(errors="replace")[:500]
    document = json.loads(text)
    assert document["status"] == status
    if status == 422:
        assert document["errors"] and all({"pointer", "code", "message"} <= set(e) for e in document["errors"])
    if status == 400 and body.strip():
        assert document["offset"] <= len(body)


def test_a_body_in_pieces_is_one_body(shop):
    """Chunked, and split at every byte, it is the same request."""
    head = (b"POST /api/v1/auth/login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n")
    body = b"".join(b"1\r\n%c\r\n" % c for c in LOGIN) + b"0\r\n\r\n"
    answer = shop.raw(head + body)
    assert answer.split()[1] == b"401", answer[:300]


@pytest.mark.parametrize("headers, status", [
    ({"Content-Type": "text/plain"}, 415),
    ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
    ({"Content-Type": "application/jsonx"}, 415),
    ({"Content-Type": ""}, 415),
    ({"Content-Type": "application/json", "Content-Encoding": "gzip"}, 415),
    ({"Content-Type": "application/json; charset=utf-8"}, 401),
    ({"Content-Type": "Application/JSON"}, 401),
])
def test_content_type(anyone, headers, status):
    problem(anyone.post("/api/v1/auth/login", content=LOGIN, headers=headers), status)


def test_body_too_large(anyone):
    limit = anyone.stack.contract["paths"]["/api/v1/auth/login"]["post"]["x-commerce"].get("body_limit", 65536)
    body = b'{"email":"a@b.c","password":"' + b"x" * limit + b'"}'
    problem(anyone.post("/api/v1/auth/login", content=body, headers={"Content-Type": "application/json"}), 413)


@pytest.mark.parametrize("quantity, status", [
    ("0", 422), ("-1", 422), ("1.5", 422), ("1e0", 422), ("1.0", 422), ('"1"', 422), ("null", 422), ("true", 422),
    ("9007199254740993", 400), ("99999999999999999999", 400), ("1000000000", 422), ("[1]", 422),
])
def test_quantities(customer, quantity, status):
    answer = customer.post("/api/v1/cart/items", content=f'{{"product_id":1,"quantity":{quantity}}}',
                           headers={"Content-Type": "application/json"})
    assert answer.status_code in ({status, 422} if status == 400 else {status}), answer.text
    problem(answer, answer.status_code)


def test_a_price_of_the_client_is_refused(customer):
    answer = customer.post("/api/v1/cart/items", json={"product_id": 1, "quantity": 1, "unit_price": 1})
    refused = problem(answer, 422)
    assert refused["errors"][0]["pointer"] == "/unit_price"
    assert refused["detail"] == "/unit_price is not known here; members are product_id, variant_id, quantity."


def test_the_body_as_a_whole_is_named(customer):
    refused = problem(customer.post("/api/v1/cart/items", json=[]), 422)
    assert refused["errors"][0]["pointer"] == "" and refused["detail"] == "The body must be an object."


@pytest.mark.parametrize("query, status", [
    ("limit=0", 422), ("limit=101", 422), ("limit=x", 422), ("limit=1&limit=2", 400), ("nothing=1", 400),
    ("sort_by=password", 422), ("min_price=-1", 422), ("search=%ff", 422), ("search=%00", 422),
    ("limit=1%20", 422),
])
def test_query(anyone, query, status):
    problem(anyone.get(f"/api/v1/products?{query}"), status)


@pytest.mark.parametrize("query", [b"search=%", b"search=%zz", b"search=%4", b"%=1"])
def test_malformed_query(shop, query):
    """As raw bytes: a client library would mend it."""
    answer = shop.raw(b"GET /api/v1/products?" + query + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert answer.split()[1] == b"400"
    assert b'"code":"malformed-query"' in answer


# ---- conditional requests ----


def test_etag_and_304(anyone):
    for path in ("/api/v1/products/1", "/api/v1/products?limit=3"):
        first = anyone.get(path)
        tag = first.headers["etag"]
        assert re.fullmatch(r'"[^"]+"', tag)
        for condition in (tag, f"W/{tag}", f'"other", {tag}', "*"):
            again = anyone.get(path, headers={"If-None-Match": condition})
            assert (again.status_code, again.content) == (304, b""), condition
            assert again.headers["etag"] == tag
        assert anyone.get(path, headers={"If-None-Match": '"other"'}).status_code == 200


def test_if_match(staff, anyone, shop):
    path = "/api/v1/products/2"
    tag = staff.get(path).headers["etag"]
    problem(staff.patch(path, json={"name": "Renamed"}), 428, "if-match-required")
    stale = staff.patch(path, json={"name": "Renamed"}, headers={"If-Match": '"999999"'})
    problem(stale, 412, "version-mismatch")
    changed = staff.patch(path, json={"name": "Renamed"}, headers={"If-Match": tag})
    assert changed.status_code == 200, changed.text
    problem(staff.patch(path, json={"name": "Again"}, headers={"If-Match": tag}), 412, "version-mismatch")
    assert shop.value("SELECT name FROM shop.product WHERE tenant_id = 1 AND id = 2") == "Renamed"

    from stack import wait_for
    wait_for(lambda: anyone.get(path).json()["name"] == "Renamed", 3, "the cached product is invalidated")


# ---- cursors ----


def pages(edge, path, **query):
    while True:
        answer = edge.get(path, params=query)
        assert answer.status_code == 200, answer.text
        body = answer.json()
        yield body
        cursor = body["page"]["next"]
        assert body["page"]["has_more"] == (cursor is not None)
        if cursor is None:
            return
        assert f"cursor={cursor}" in answer.headers["link"]
        query["cursor"] = cursor


@pytest.mark.parametrize("sort", [{}, {"sort_by": "price"}, {"sort_by": "price", "sort_dir": "desc"},
                                  {"sort_by": "name"}, {"sort_by": "stock", "sort_dir": "desc"},
                                  {"sort_by": "created_at"}])
def test_paging_shows_each_product_once(shop, anyone, sort):
    seen = [p["id"] for page in pages(anyone, "/api/v1/products", limit=7, **sort) for p in page["data"]]
    assert len(seen) == len(set(seen))
    assert len(seen) == shop.value("SELECT count(*) FROM shop.product WHERE tenant_id = 1 AND deleted_at IS NULL "
                                   "AND status = 'active'")


def test_cursors_cannot_be_forged_or_moved(anyone, shop):
    first = anyone.get("/api/v1/products", params={"limit": 3}).json()
    cursor = first["page"]["next"]
    assert anyone.get("/api/v1/products", params={"limit": 5, "cursor": cursor}).status_code == 200
    flipped = cursor[:-1] + ("A" if cursor[-1] != "A" else "B")
    for query in ({"cursor": flipped}, {"cursor": cursor + "A"}, {"cursor": "AAAA"}, {"cursor": "!"},
                  {"cursor": cursor, "sort_by": "price"}, {"cursor": cursor, "search": "lamp"},
                  {"cursor": cursor, "in_stock": "true"}):
        answer = anyone.get("/api/v1/products", params={"limit": 3, **query})
        problem(answer, 400, "cursor-mismatch")
    other = shop.edge(tenant="acme")
    problem(other.get("/api/v1/products", params={"limit": 3, "cursor": cursor}), 400, "cursor-mismatch")


# ---- idempotency ----


def test_idempotency_key(shop, customer):
    body = {"product_id": 3, "quantity": 1}
    headers = {"Idempotency-Key": "cart-1"}
    first = customer.post("/api/v1/cart/items", json=body, headers=headers)
    again = customer.post("/api/v1/cart/items", json=body, headers=headers)
    assert first.status_code == again.status_code == 201, again.text
    assert first.json() == again.json()
    assert again.headers["idempotent-replayed"] == "true"
    assert "idempotent-replayed" not in first.headers
    other = customer.post("/api/v1/cart/items", json={"product_id": 3, "quantity": 2}, headers=headers)
    problem(other, 422, "idempotency-key-reused")
    # the same members in another order are the same body
    swapped = customer.post("/api/v1/cart/items", content='{"quantity": 1, "product_id": 3}',
                            headers={**headers, "Content-Type": "application/json"})
    assert swapped.headers.get("idempotent-replayed") == "true"
    # a key is its owner's
    neighbour = shop.user("admin@example.com").post("/api/v1/cart/items", json=body, headers=headers)
    assert "idempotent-replayed" not in neighbour.headers


def test_a_kept_answer_is_not_in_the_log_of_the_database(shop, customer):
    """Answers hold names and addresses; PostgreSQL logs what is raised."""
    street = f"{uuid.uuid4()} Street"
    answers = [customer.post("/api/v1/users/addresses", headers={"Idempotency-Key": "an-address"}, json={
        "type": "SHIPPING", "name": "N.", "line1": street, "city": "Berlin", "country": "DE"}) for _ in range(2)]
    assert [a.status_code for a in answers] == [201, 201] and answers[0].text == answers[1].text
    assert answers[1].headers["idempotent-replayed"] == "true" and answers[1].headers["Location"] == answers[0].headers["Location"]
    log = (shop.folder / "logs" / "postgres.log").read_text(errors="replace")
    assert "The answer is kept under this key." in log and street not in log


@pytest.mark.parametrize("name", ["Idempotency-Key", "idempotency-KEY", "If-Match", "If-None-Match", "X-Cart-Token", "Content-Type"])
def test_headers_that_may_come_once(shop, customer, name):
    """Nobody may choose which of two counts; the same value twice is two, too."""
    value = "application/json" if name == "Content-Type" else secrets.token_hex(8)
    before = shop.value("SELECT count(*) FROM shop.address")
    for more in (value, value + "x"):
        headers = [*customer.headers.items(), (name, value), (name, more)]
        answer = customer.send(httpx.Request("POST", customer.base_url.join("/api/v1/users/addresses"), headers=headers, json={
            "type": "SHIPPING", "name": "A", "line1": "1", "city": "B", "country": "DE"}))
        # nginx refuses conditions itself
        assert problem(answer, 400)["code"] == ("bad-request" if name.startswith("If-") else "duplicate-header")
    assert shop.value("SELECT count(*) FROM shop.address") == before


def test_headers_that_may_come_again(anyone, customer):
    """Lists go on in another line; of two traces none is believed."""
    for lines in (["wait=1", "return=minimal"], ["return=minimal", "wait=1"], ["a, b", "c", "return=minimal"]):
        headers = [*customer.headers.items(), *(("Prefer", line) for line in lines)]
        answer = customer.send(httpx.Request("POST", customer.base_url.join("/api/v1/users/addresses"), headers=headers, json={
            "type": "SHIPPING", "name": "A", "line1": "1", "city": "B", "country": "DE"}))
        assert (answer.status_code, answer.headers["Preference-Applied"], answer.content) == (201, "return=minimal", b"")
    headers = [*anyone.headers.items(), ("X-Correlation-ID", "one"), ("X-Correlation-ID", "two")]
    answer = anyone.send(httpx.Request("GET", anyone.base_url.join("/api/v1/products/1"), headers=headers))
    assert answer.status_code == 200 and answer.headers["X-Correlation-ID"] not in ("one", "two")


@pytest.mark.parametrize("key", ["", "x" * 256, "two words", "é"])
def test_bad_idempotency_keys(customer, key):
    answer = customer.post("/api/v1/checkout", json={}, headers={"Idempotency-Key": key.encode()})
    problem(answer, 400, "idempotency-key-invalid")


def test_orders_need_a_key(customer):
    line = {"product_id": 1, "quantity": 1}
    problem(customer.post("/api/v1/orders", json={"items": [line]}), 400, "idempotency-key-missing")


def test_one_key_fifty_times_at_once(shop):
    """CHECKOUT invariant 3: fifty identical requests, one order, one answer."""
    buyer = shop.user()
    before = shop.value("SELECT count(*) FROM shop.orders")

    def order(_):
        with shop.user() as edge:
            return edge.post("/api/v1/orders", json={"items": [{"product_id": 1, "quantity": 1}]},
                             headers={"Idempotency-Key": "fifty"})

    with concurrent.futures.ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(order, range(50)))
    assert {a.status_code for a in answers} <= {201, 409}, {a.status_code: a.text for a in answers}
    done = [a for a in answers if a.status_code == 201]
    assert len({json.dumps(a.json(), sort_keys=True) for a in done}) == 1
    for a in answers:
        if a.status_code == 409:
            assert "retry-after" in a.headers
    assert shop.value("SELECT count(*) FROM shop.orders") == before + 1
    assert buyer.get("/api/v1/orders").json()["data"]


# ---- tenants and tokens ----


def test_tenant_by_host(shop):
    for tenant in ("demo", "acme", "globex"):
        answer = shop.edge(tenant=tenant).get("/api/v1/products")
        assert answer.status_code == 200
    upper = shop.edge()
    upper.headers["Host"] = "ACME.localhost:1234"
    assert upper.get("/api/v1/products").json() == shop.edge(tenant="acme").get("/api/v1/products").json()


def test_a_token_is_of_one_tenant(shop):
    stranger = shop.user(tenant="acme")
    stranger.headers["Host"] = "demo.localhost"
    problem(stranger.get("/api/v1/orders"), 403, "tenant-mismatch")


def test_a_header_of_the_client_chooses_no_tenant(shop):
    plain = shop.edge().get("/api/v1/products").json()
    for header in ("X-Tenant", "X-Tenant-ID", "X-Tenant-Slug", "X-Forwarded-Host"):
        assert shop.edge().get("/api/v1/products", headers={header: "acme"}).json() == plain


@pytest.mark.parametrize("change", [
    {"exp": 1}, {"nbf": 4102444800}, {"iss": "other"}, {"aud": "other"}, {"sub": None}, {"exp": None}, {"tid": "x"},
    {"key": "0" * 64}, {"headers": {"kid": "k9"}}, {"headers": {"typ": "JWT"}}, {"headers": {"crit": ["x"]}},
])
def test_bad_tokens(shop, change):
    good = shop.user()
    assert good.get("/api/v1/orders").status_code == 200
    bad = shop.edge(token=shop.token(good.user_id, **change))
    answer = bad.get("/api/v1/orders")
    assert answer.status_code == (403 if change == {"tid": "x"} and answer.status_code == 403 else 401)
    problem(answer, answer.status_code)
    assert answer.headers.get("www-authenticate", "").startswith("Bearer")


def test_alg_none_and_garbage(shop):
    import base64
    good = shop.token(shop.user().user_id)
    _, claims, signature = good.split(".")

    def part(value):
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    none = part({"alg": "none", "typ": "at+jwt", "kid": "k1"})
    for token in (f"{none}.{claims}.", f"{none}.{claims}.{signature}", good + "=", good + "A", good[:-2], "a.b.c", "..",
                  good.replace(".", ".."), "x" * 9000):
        problem(shop.edge(token=token).get("/api/v1/orders"), 401)


def test_staff_only(shop, customer, anyone):
    body = {"name": "Mine", "price": {"amount": 100, "currency": "USD"}}
    problem(anyone.post("/api/v1/products", json=body), 401)
    problem(customer.post("/api/v1/products", json=body), 403)
    reader = shop.token(shop.staff().user_id, roles=["staff", "catalog.read"])
    problem(shop.edge(token=reader).post("/api/v1/products", json=body), 403)
