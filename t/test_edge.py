"""The edge's framing: pipelining, HEAD, 204, 304, HTTP/2, headers from SQL, internal redirects."""

import contextlib
import json
import re
import socket

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import pytest

from stack import SLOW, free_ports, source_address, wait_for

LOGIN = b'{"email":"nobody@example.com","password":"password"}'


class Wire:
    """One HTTP/1.1 connection, read strictly: a byte too many or too few is an error."""

    def __init__(self, shop, timeout=20 * SLOW):
        self.socket = shop.connect(timeout)
        self.file = self.socket.makefile("rb")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()
        self.socket.close()

    def send(self, *requests):
        self.socket.sendall(b"".join(requests))

    def answer(self, method="GET"):
        line = self.file.readline()
        assert line.startswith(b"HTTP/1.1 "), line
        status = int(line.split()[1])
        headers = {}
        while (line := self.file.readline()) != b"\r\n":
            name, value = re.fullmatch(rb"([A-Za-z0-9-]+): (.*)\r\n", line).groups()
            headers.setdefault(name.decode().lower(), []).append(value.decode())
        if status == 100:
            return status, headers, b""
        if method == "HEAD" or status in (204, 304):
            return status, headers, b""
        assert "transfer-encoding" not in headers
        assert len(headers["content-length"]) == 1
        return status, headers, self.file.read(int(headers["content-length"][0]))

    def silent(self):
        """Nothing more has come: the next request is answered by the next bytes."""
        self.send(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        return self.answer()[2] == b'{"status":"alive"}'


def request(method, path, body=None, *lines):
    head = [f"{method} {path} HTTP/1.1", "Host: localhost", *lines]
    if body is not None:
        head += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return ("\r\n".join(head) + "\r\n\r\n").encode() + (body or b"")


CHUNKED = (b"POST /api/v1/auth/login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
           b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(LOGIN), LOGIN))


# ---- framing ----


def test_pipelined_requests_are_answered_in_order(shop, probes):
    with shop.configured(**probes), Wire(shop) as wire:
        wire.send(request("GET", "/api/v1/probe/sleep?ms=200"),
                  request("POST", "/api/v1/auth/login", LOGIN),
                  request("HEAD", "/api/v1/products/1"),
                  CHUNKED,
                  request("DELETE", "/api/v1/probe/empty"),
                  request("GET", "/nothing"),
                  request("POST", "/nothing", b"x" * 3000),
                  request("GET", "/api/v1/products/1", b"a body that nobody wants"),
                  request("OPTIONS", "/api/v1/products", b"{}"),
                  request("GET", "/api/v1/probe/big?bytes=300000"))
        for method, status in (("GET", 200), ("POST", 401), ("HEAD", 200), ("POST", 401), ("DELETE", 204), ("GET", 404),
                               ("POST", 404), ("GET", 200), ("OPTIONS", 204), ("GET", 200)):
            got, headers, body = wire.answer(method)
            assert got == status, (method, status, body[:200])
            if status in (204, 304):
                assert "content-length" not in headers and "content-type" not in headers
            elif method != "HEAD":
                json.loads(body)
        assert wire.silent()


def test_no_body_where_none_may_be(shop):
    with Wire(shop) as wire:
        wire.send(request("GET", "/api/v1/products/1"))
        tag = wire.answer()[1]["etag"][0]
        for method, path, lines, status in (
                ("GET", "/api/v1/products/1", [f"If-None-Match: {tag}"], 304),
                ("HEAD", "/api/v1/products/1", [f"If-None-Match: {tag}"], 304),
                ("HEAD", "/nothing", [], 404), ("HEAD", "/api/v1/orders", [], 401),
                ("HEAD", "/api/v1/products?limit=x", [], 422), ("OPTIONS", "/api/v1/products", [], 204),
                ("HEAD", "/api/v1/products", ["If-Modified-Since: Fri, 01 Jan 2100 00:00:00 GMT"], 200),
                ("GET", "/api/v1/products", ["If-Unmodified-Since: Thu, 01 Jan 1970 00:00:00 GMT"], 200),
                ("GET", "/api/v1/products", ["Range: bytes=0-3"], 200)):
            wire.send(request(method, path, None, *lines))
            got, headers, body = wire.answer(method)
            assert got == status, (method, path, got)
            assert len(headers["x-correlation-id"]) == 1
        assert wire.silent()


def test_a_refused_body_is_not_waited_for(shop):
    """Too large, of another type, not taken at all: answered before the body is sent."""
    for method, path, lines, status in (
            ("POST", "/api/v1/auth/login", ["Content-Type: application/json", "Content-Length: 9000000"], 413),
            ("POST", "/api/v1/auth/login", ["Content-Type: text/plain", "Content-Length: 900"], 415),
            ("POST", "/api/v1/auth/logout", ["Content-Length: 9000000"], None),
            ("DELETE", "/api/v1/cart", ["Content-Length: 9000000"], 400),
            ("POST", "/nothing", ["Content-Length: 9000000", "Expect: 100-continue"], 404)):
        with Wire(shop) as wire:
            wire.send(request(method, path, None, *lines))
            got = wire.answer(method)
            while got[0] == 100:
                got = wire.answer(method)
            assert got[0] == status or status is None and 400 <= got[0] < 500, (path, got)


def test_what_a_client_sends_stays_within_its_value(shop):
    """No text of a client makes a header or a member of its own."""
    evil = "%0d%0aSet-Cookie:%20a=b%0d%0a%22,%22code%22:%22mine"
    with Wire(shop) as wire:
        for path in (f"/api/v1/products?{evil}=1", f"/api/v1/products?sort_by={evil}", f"/api/v1/products/{evil}",
                     f"/{evil}", f"/api/v1/products?cursor={evil}", f"/api/v1/categories/{evil}"):
            wire.send(request("GET", path))
            status, headers, body = wire.answer()
            assert 400 <= status < 500, path
            assert "set-cookie" not in headers
            document = json.loads(body)
            assert document["code"] != "mine"
        wire.send(request("GET", "/nothing", None, "X-Correlation-ID: a\tb", "traceparent: x", "X-Cart-Token: \"{}"))
        assert wire.answer()[0] == 404
        assert wire.silent()


# ---- headers from SQL ----


def test_headers_of_a_function(shop, probes):
    def get(headers, status=200):
        with Wire(shop) as wire:
            import urllib.parse
            wire.send(request("GET", f"/api/v1/probe/headers?status={status}&headers="
                              + urllib.parse.quote(json.dumps(headers))))
            answer = wire.answer()
            assert wire.silent()
            return answer

    with shop.configured(**probes):
        status, headers, body = get({"Location": "/api/v1/x", "X-Number": 7, "X-Big": "x" * 2000})
        assert (status, body) == (200, b'{"data":"x"}')
        assert (headers["location"], headers["x-number"], headers["x-big"]) == (["/api/v1/x"], ["7"], ["x" * 2000])
        # framing is nginx's, and a header is one line
        status, headers, body = get({"Content-Length": "3", "Transfer-Encoding": "chunked", "Connection": "close",
                                     "X-A\r\nX-B": "1", "X C": "1", "": "1", "X-D": "a\r\nSet-Cookie: b=c", "X-E": "a\nb",
                                     "X-F": "kept"})
        assert (status, body) == (200, b'{"data":"x"}')
        assert headers["x-f"] == ["kept"]
        assert not {"transfer-encoding", "set-cookie", "x-a", "x-b", "x-d", "x-e"} & set(headers)
        # what a function may decide replaces what the edge would say
        headers = get({"Content-Type": "text/csv", "Cache-Control": "no-cache", "etag": '"7"'})[1]
        assert (headers["content-type"], headers["cache-control"], headers["etag"]) == (["text/csv"], ["no-cache"], ['"7"'])
        for status in (201, 202, 301, 404, 500, 503):
            assert get({"X-F": "1"}, status)[0] == status
        with Wire(shop) as wire:
            wire.send(request("GET", "/api/v1/probe/headers?status=204&headers={}"))
            assert wire.answer()[0] == 204
            assert wire.silent()


# ---- internal redirects and subrequests ----


def test_behind_rewrite_and_auth_request(shop):
    server = """
    rewrite ^/old/(.+)$ /api/v1/products/$1 last;
    location = /who { internal; rewrite ^ /api/v1/orders last; }
    location = /guarded { auth_request /who; error_page 418 =200 /health/live; return 418; }
    location /guarded/ { auth_request /who; root /nowhere; }
    """
    with shop.configured(server=server):
        direct = shop.edge().get("/api/v1/products/1")
        rewritten = shop.edge().get("/old/1")
        assert rewritten.status_code == 200 and rewritten.json() == direct.json()
        assert shop.edge().get("/old/x%2Fy").status_code in (404, 422)
        # the subrequest is a GET of /api/v1/orders: it decides, whatever the main request is
        for method in ("GET", "POST"):
            answer = shop.edge().request(method, "/guarded/file", json={} if method == "POST" else None)
            assert answer.status_code == 401, answer.text
            answer = shop.user().request(method, "/guarded/file", json={} if method == "POST" else None)
            assert answer.status_code in (404, 405), answer.text


# ---- HTTP/2 ----


class Two:
    """An HTTP/2 client with prior knowledge."""

    def __init__(self, port, timeout=20 * SLOW):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout, source_address=(source_address(), 0))
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
        self.h2.initiate_connection()
        self.answers = {}
        self.over = set()
        self.flush()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def flush(self):
        self.socket.sendall(self.h2.data_to_send())

    def start(self, method, path, body=None, end=True, **headers):
        stream = self.h2.get_next_available_stream_id()
        fields = [(":method", method), (":path", path), (":scheme", "http"), (":authority", "localhost"),
                  *((name.replace("_", "-"), value) for name, value in headers.items())]
        if body is not None:
            fields.append(("content-type", "application/json"))
        self.h2.send_headers(stream, fields, end_stream=end and body is None)
        self.flush()
        while body:
            room = min(self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size, len(body))
            if room == 0:
                self.receive()
                continue
            self.h2.send_data(stream, body[:room], end_stream=end and room == len(body))
            body = body[room:]
            self.flush()
        return stream

    def reset(self, stream):
        # the answer may have been quicker
        with contextlib.suppress(h2.exceptions.StreamClosedError):
            self.h2.reset_stream(stream)
        self.flush()

    def receive(self):
        data = self.socket.recv(65536)
        assert data, "the connection was closed"
        for event in self.h2.receive_data(data):
            stream = getattr(event, "stream_id", None)
            if isinstance(event, h2.events.ResponseReceived):
                self.answers[stream] = [dict(event.headers), b""]
            elif isinstance(event, h2.events.DataReceived):
                self.answers[stream][1] += event.data
                self.h2.acknowledge_received_data(event.flow_controlled_length, stream)
            elif isinstance(event, h2.events.StreamEnded):
                self.over.add(stream)
            elif isinstance(event, h2.events.StreamReset):
                self.answers.setdefault(stream, [{":status": "reset"}, b""])
                self.over.add(stream)
        self.flush()

    def get(self, stream):
        while stream not in self.over:
            self.receive()
        headers, body = self.answers[stream]
        return headers[":status"], headers, body


@pytest.fixture(scope="module")
def two(shop, probes):
    """The port where the shop with the probes speaks HTTP/2."""
    port, = free_ports(1)
    with shop.configured(server=f"listen 127.0.0.1:{port} http2;", **probes):
        yield port


def test_http2_answers(shop, two):
    token = shop.token(shop.user().user_id)
    with Two(two) as client:
        wanted = {
            client.start("GET", "/api/v1/probe/sleep?ms=150"): "200",
            client.start("HEAD", "/api/v1/products/1"): "200",
            client.start("OPTIONS", "/api/v1/products"): "204",
            client.start("DELETE", "/api/v1/probe/empty"): "204",
            client.start("POST", "/api/v1/auth/login", LOGIN): "401",
            client.start("GET", "/nothing"): "404",
            client.start("GET", "/api/v1/products/1", if_none_match="*"): "304",
            # no body at all, and a body of no bytes
            client.start("POST", "/api/v1/cart/merge", authorization=f"Bearer {token}"): "200",
            client.start("POST", "/api/v1/checkout", authorization=f"Bearer {token}"): None,
            client.start("POST", "/api/v1/checkout", b"{}", authorization=f"Bearer {token}"): None,
        }
        for stream, status in wanted.items():
            got, headers, body = client.get(stream)
            if status:
                assert got == status, (stream, got, body)
            else:
                assert got in ("409", "422", "400") and json.loads(body)["code"] != "unsupported-media-type", body
            if "content-length" in headers and stream != list(wanted)[1]:
                assert int(headers["content-length"]) == len(body)


def test_http2_megabytes(two):
    text = "x" * 3000000
    with Two(two) as client:
        up = client.start("POST", "/api/v1/probe/body", json.dumps({"text": text}).encode())
        down = [client.start("GET", "/api/v1/probe/big?bytes=2000000") for _ in range(3)]
        assert json.loads(client.get(up)[2])["length"] == len(text)
        for stream in down:
            assert len(json.loads(client.get(stream)[2])["data"]) == 2000000


def test_http2_streams_are_reset_wherever_they_are(shop, two):
    token = shop.token(shop.user().user_id)
    bearer = {"authorization": f"Bearer {token}"}
    kinds = [
        lambda c: c.start("GET", "/api/v1/probe/sleep?ms=300"),
        lambda c: c.start("GET", "/api/v1/probe/big?bytes=3000000"),
        lambda c: c.start("GET", "/api/v1/cart", **bearer),
        lambda c: c.start("POST", "/api/v1/probe/write", b'{"ms":300}'),
        lambda c: c.start("POST", "/api/v1/auth/login", LOGIN),
        lambda c: c.start("POST", "/api/v1/cart/items", b'{"product_id":1,"quantity":1}', **bearer),
        lambda c: c.start("POST", "/api/v1/auth/login", LOGIN[:10], end=False),
        lambda c: c.start("POST", "/api/v1/auth/login", end=False, content_type="application/json"),
        lambda c: c.start("POST", "/nothing", LOGIN, end=False),
    ]
    with Two(two) as client:
        for kind in kinds:
            streams = [kind(client) for _ in range(6)]
            for stream in streams[::2]:
                client.reset(stream)
            # an answer in between: the others have begun
            assert client.get(client.start("GET", "/health/live"))[0] == "200"
            for stream in streams[1::2]:
                client.reset(stream)
        wait_for(lambda: client.get(client.start("GET", "/api/v1/probe/sleep?ms=0"))[0] == "200", 20)


def test_http2_connections_are_cut_with_all_their_streams(shop, two):
    for _ in range(5):
        with Two(two) as client:
            for _ in range(5):
                client.start("GET", "/api/v1/probe/sleep?ms=200")
                client.start("POST", "/api/v1/probe/write", b'{"ms":200}')
                client.start("POST", "/api/v1/auth/login", LOGIN)
                client.start("POST", "/api/v1/auth/login", LOGIN[:9], end=False)
            client.get(client.start("GET", "/health/live"))
    wait_for(lambda: shop.edge().get("/api/v1/probe/sleep?ms=0").status_code == 200, 20)
