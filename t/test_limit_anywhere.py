"""commerce_limit at locations that are not the API's: keys, costs, several policies, error pages, the examples of its page."""

import json
import re
import socket

import pytest

from stack import ROOT, free_ports, source_address, wait_for
from test_edge import Two
from test_limits import TYPE, ask, limit, refused

POLICIES = """
log_format  verdict  '$request_uri $status $commerce_limit_status';
commerce_limit_policy  few      key=ip                    rate=3r/h;
commerce_limit_policy  more     key=ip                    rate=5r/h;
commerce_limit_policy  header   key=$http_x_device        rate=2r/h;
commerce_limit_policy  pair     key=$remote_addr$arg_a    rate=2r/h;
commerce_limit_policy  heavy    key=ip                    burst=10 window=1h cost=$arg_cost;
commerce_limit_policy  busy     key=$http_x_device        rate=1r/h status=503;
commerce_limit_policy  trial    key=ip                    rate=1r/h dry_run;
commerce_limit_policy  wide     key=ip                    rate=2r/h ip6_prefix=48;
commerce_limit_policy  narrow   key=ip                    rate=2r/h;
commerce_limit_policy  house    key=tenant                rate=2r/h;
commerce_limit_policy  partner  key=api_key               rate=1r/h;
commerce_limit_policy  flood    key=ip                    rate=6r/h;
commerce_limit_policy  mine     key=user                  rate=2r/h;
"""

SERVER = """
listen  127.0.0.1:{two} http2;
access_log  {logs}/verdict.log  verdict;

location /few/    {{ commerce_limit few; empty_gif; }}
location /both/   {{ commerce_limit more few; empty_gif; }}
location /device/ {{ commerce_limit header; empty_gif; }}
location /pair/   {{ commerce_limit pair; empty_gif; }}
location /heavy/  {{ commerce_limit heavy; empty_gif; }}
location /busy/   {{ commerce_limit busy; empty_gif; }}
location /trial/  {{ commerce_limit trial; empty_gif; }}
location /wide/   {{ commerce_limit wide; empty_gif; }}
location /narrow/ {{ commerce_limit narrow; empty_gif; }}
location /house/  {{ commerce_limit house; empty_gif; }}
location /partner/ {{ commerce_limit partner; empty_gif; }}
location /mine/   {{ commerce_auth required; commerce_limit mine flood; empty_gif; }}
location /free/   {{ commerce_limit off; empty_gif; }}
location /return/ {{ commerce_limit few; return 204; }}
location /page/   {{ commerce_limit few; error_page 429 /sorry.html; empty_gif; }}
location /named/  {{ commerce_limit few; error_page 429 = @named; empty_gif; }}
location @named   {{ commerce_limit few; return 200 "later"; }}
location = /sorry.html {{ internal; commerce_limit few; root {run}; }}
location /plain/  {{ commerce_limit few; error_page 404 /none; empty_gif; }}
location /proxy/  {{ commerce_limit few; proxy_pass http://127.0.0.1:{port}/free/; }}
location /moved/  {{ commerce_limit few; try_files /none /few/x; }}
location /api/    {{ commerce_limit few; commerce_api; }}
"""


@pytest.fixture(scope="module")
def two():
    """The port of HTTP/2."""
    return free_ports(1)[0]


@pytest.fixture(scope="module")
def anywhere(shop, two):
    (shop.folder / "sorry.html").write_text("sorry\n")
    with shop.configured(http=POLICIES, server=SERVER.format(logs=shop.folder / "logs", run=shop.folder, port=shop.port, two=two)):
        yield shop


def statuses(shop, path, count, address=None, **options):
    address = address or source_address()
    return [ask(shop, address, path=path, **options).status_code for _ in range(count)]


def test_counts_at_any_content_handler(anywhere):
    for path in ("/few/", "/proxy/", "/plain/", "/moved/"):
        address = source_address()
        assert statuses(anywhere, path, 5, address) == [200] * 3 + [429] * 2
        refused(ask(anywhere, address, path=path), "few")
        assert statuses(anywhere, "/free/", 5, address) == [200] * 5

    # return answers in the rewrite phase, before any limit: the page says so
    assert statuses(anywhere, "/return/", 5) == [204] * 5


def test_several_policies_share_one_line(anywhere):
    address = source_address()
    answers = [ask(anywhere, address, path="/both/") for _ in range(4)]
    assert [a.status_code for a in answers] == [200] * 3 + [429]
    assert answers[0].headers["ratelimit-policy"] == '"more";q=5;w=3600, "few";q=3;w=3600'
    assert len(answers[0].headers.get_list("ratelimit")) == 1
    refused(answers[3], "few")
    # what "few" refuses costs nothing under "more"
    assert [limit(a, "more")[0] for a in answers] == [4, 3, 2, 2]


def test_http2(anywhere, two):
    """Streams of one connection are as many requests of one address, counted with those of HTTP/1.1 from there."""
    with Two(two) as client:
        address = client.socket.getsockname()[0]
        assert statuses(anywhere, "/few/", 1, address) == [200]
        answers = [client.get(stream) for stream in [client.start("GET", "/few/") for _ in range(8)]]
        assert sorted(status for status, _, _ in answers) == ["200"] * 2 + ["429"] * 6
        for status, headers, body in answers:
            assert headers["ratelimit-policy"] == '"few";q=3;w=3600'
            left = int(re.match(r'"few";r=(\d);t=\d+$', headers["ratelimit"])[1])
            if status == "429":
                problem = json.loads(body)
                assert headers["content-type"] == "application/problem+json" and problem["type"] == TYPE
                assert problem["violated-policies"] == ["few"] and int(headers["retry-after"]) == problem["retry_after"] >= 1
                assert left == 0
        status, headers, body = client.get(client.start("HEAD", "/few/"))
        assert (status, body) == ("429", b"") and int(headers["content-length"]) > 0
        refused(ask(anywhere, address, path="/few/"), "few")

        # keys are of a stream, not of its connection; policies of the API, too
        devices = [client.start("GET", "/device/", x_device=f"two-{n % 2}") for n in range(6)]
        assert [client.get(stream)[0] for stream in devices] == ["200"] * 4 + ["429"] * 2
        assert client.get(client.start("GET", "/both/"))[1]["ratelimit"].count(",") == 1
        assert client.get(client.start("GET", "/api/v1/products/1"))[0] == "429"


def test_keys_of_variables(anywhere):
    assert statuses(anywhere, "/device/", 4) == [200] * 4, "an empty key is not limited"
    answer = ask(anywhere, source_address(), path="/device/")
    assert "ratelimit" not in answer.headers
    devices = ["a", "A", "a ", "x" * 7000, "\u00e4".encode(), b"\xff\xfe", '","status":200,"x":"', "%00", "..;/"]
    for device in dict.fromkeys(d.strip() if isinstance(d, str) else d for d in devices):
        options = {"headers": {"X-Device": device}}
        assert [ask(anywhere, source_address(), path="/device/", **options).status_code for _ in range(3)] == [200, 200, 429], device
    address = source_address()
    assert statuses(anywhere, "/pair/?a=1", 3, address) == [200, 200, 429]
    assert statuses(anywhere, "/pair/?a=2", 3, address) == [200, 200, 429]
    assert statuses(anywhere, "/pair/?a=1", 3) == [200, 200, 429]


def test_tenant_and_api_key(anywhere):
    answers = [ask(anywhere, source_address(), path="/house/", headers={"Host": host})
               for host in ("demo.localhost", "acme.localhost") for _ in range(3)]
    assert [a.status_code for a in answers] == [200, 200, 429] * 2
    assert statuses(anywhere, "/partner/", 3) == [200] * 3, "who has no key is not limited"


def test_address_before_the_token_and_user_after_it(anywhere):
    (_, token), (_, other) = anywhere.customers(2)

    def mine(token, address=None):
        return ask(anywhere, address or source_address(), path="/mine/", headers={"Authorization": f"Bearer {token}"})

    answers = [mine(token) for _ in range(3)]
    assert [a.status_code for a in answers] == [200, 200, 429]
    assert answers[0].headers["ratelimit-policy"] == '"flood";q=6;w=3600, "mine";q=2;w=3600'
    refused(answers[2], "mine")
    assert mine(other).status_code == 200

    # a flood of bad tokens ends before any is looked at
    address = source_address()
    assert [mine("bad", address).status_code for _ in range(8)] == [401] * 6 + [429] * 2
    assert mine(other, address).status_code == 429


def test_cost(anywhere):
    def costs(*values):
        address = source_address()
        return [ask(anywhere, address, path=f"/heavy/?cost={value}").status_code for value in values]

    assert costs(4, 4, 3, 2, 1) == [200, 200, 429, 200, 429]
    assert costs(11, 10, 1) == [429, 200, 429]
    assert costs(0, 0, 10, 0, 1) == [200, 200, 200, 200, 429]
    # what is no number costs one
    assert costs(*["-5", "1e9", "", "99999999999999999999", "x"] * 2, 1) == [200] * 10 + [429]


def test_status_and_error_pages(anywhere):
    answers = [ask(anywhere, source_address(), path="/busy/", headers={"X-Device": "one"}) for _ in range(2)]
    assert answers[1].status_code == 503
    assert answers[1].json()["violated-policies"] == ["busy"] and "retry-after" in answers[1].headers

    address = source_address()
    answer = [ask(anywhere, address, path="/page/") for _ in range(4)][-1]
    assert (answer.status_code, answer.text) == (429, "sorry\n")
    assert "retry-after" in answer.headers and limit(answer, "few")[0] == 0

    address = source_address()
    answer = [ask(anywhere, address, path="/named/") for _ in range(4)][-1]
    assert (answer.status_code, answer.text) == (200, "later")


def test_variable_and_dry_run(anywhere):
    address = source_address()
    assert statuses(anywhere, "/trial/?t", 3, address) == [200] * 3
    assert statuses(anywhere, "/few/?t", 4, address) == [200] * 3 + [429]
    ask(anywhere, address, path="/free/?t")
    log = anywhere.folder / "logs" / "verdict.log"
    # a line is written when its answer has left: that of the next one, by the other worker, may come before it
    want = ["/trial/?t 200 PASSED"] + ["/trial/?t 200 REJECTED_DRY_RUN"] * 2 + ["/few/?t 200 PASSED"] * 3 + [
        "/few/?t 429 REJECTED", "/free/?t 200 -"]
    lines = wait_for(lambda: len(found := re.findall(r"^\S+\?t .*\n", log.read_text(), re.M)) >= len(want) and found, what="the log")
    assert sorted(line.strip() for line in lines) == sorted(want)


def test_api_is_under_both(anywhere):
    """The location's policy and the operation's, each once, in one line."""
    address = source_address()
    answers = [ask(anywhere, address) for _ in range(4)]
    assert [a.status_code for a in answers] == [200] * 3 + [429]
    assert answers[0].headers["ratelimit-policy"] == '"few";q=3;w=3600, "ip";q=60;w=60'
    refused(answers[3], "few")
    assert answers[3].json()["instance"] == "/api/v1/products/1"
    assert answers[3].json()["correlation_id"] == answers[3].headers["x-correlation-id"]


def test_pipelined_and_early_closed(anywhere):
    """Refused in the middle of a pipeline; a body that nobody reads does not become the next request."""
    with anywhere.connect() as s:
        for _ in range(3):
            s.sendall(b"GET /few/ HTTP/1.1\r\nHost: x\r\n\r\n" * 2
                      + b"POST /few/ HTTP/1.1\r\nHost: x\r\nContent-Length: 30\r\n\r\nGET /few/ HTTP/1.1\r\nHost: y\r\n\r\n")
        s.sendall(b"GET /free/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = b""
        while chunk := s.recv(65536):
            answer += chunk
    codes = [int(code) for code in re.findall(rb"HTTP/1.1 (\d{3}) ", answer)]
    assert len(codes) == 10 and codes[2] == 405 and codes[3:9] == [429] * 6 and codes[9] == 200
    s = socket.create_connection(("127.0.0.1", anywhere.port))
    s.sendall(b"GET /few/ HTTP/1.1\r\nHost: x\r\n\r\n")
    s.close()


def test_ipv6_counts_by_prefix(shop, two):
    """As realip tells them: 127.0.0.1 is a proxy that says whose request it is."""
    replace = [(r"(listen\s+[^;]+;)", r"\1\n        set_real_ip_from 127.0.0.0/8; real_ip_header X-Real-IP;")]
    with shop.configured(http=POLICIES, replace=replace,
                         server=SERVER.format(logs=shop.folder / "logs", run=shop.folder, port=shop.port, two=two)):
        def sent(path, address):
            return ask(shop, "127.0.0.1", path=path, headers={"X-Real-IP": address}).status_code

        assert [sent("/narrow/", a) for a in ("2001:db8:1:2::1", "2001:db8:1:2:3::9", "2001:db8:1:2:ffff::")] == [200, 200, 429]
        assert sent("/narrow/", "2001:db8:1:3::1") == 200
        assert [sent("/wide/", a) for a in ("2001:db8:9:2::1", "2001:db8:9:3::1", "2001:db8:9:4::1")] == [200, 200, 429]
        assert sent("/wide/", "2001:db8:a::1") == 200
        assert [sent("/narrow/", a) for a in ("10.9.8.7", "::ffff:10.9.8.7", "10.9.8.7", "10.9.8.6")] == [200, 200, 429, 200]


def test_examples_of_the_page(shop):
    page = (ROOT / "docs" / "directives" / "limit.md").read_text()
    blocks = dict(re.findall(r"```nginx (http|server)\n(.*?)```", page, re.S))
    with shop.configured(http=blocks["http"], server=blocks["server"]):
        address = source_address()
        assert statuses(shop, "/legacy/x", 8, address, headers={"X-Device": "d1"}) == [502] * 6 + [429] * 2
        assert 429 not in statuses(shop, "/legacy/x", 8)
        # ten come back in a minute
        assert [ask(shop, address, path=f"/downloads/x?megabytes={n}").status_code for n in (60, 60, 40, 10)] == [404, 503, 404, 503]
        assert statuses(shop, "/downloads/free/x?megabytes=100", 3, address) == [404] * 3


@pytest.mark.parametrize("line, why", [
    ("commerce_limit_policy x key=ip;", "needs key= and rate="),
    ("commerce_limit_policy x key=ip rate=1r/s window=1m;", "needs key= and rate="),
    ("commerce_limit_policy x key=ip window=1m;", "needs key= and rate="),
    ("commerce_limit_policy x key=word rate=1r/s;", "a key is ip, user"),
    ("commerce_limit_policy x key= rate=1r/s;", "a key is ip, user"),
    ("commerce_limit_policy x key=$nothing_like_it rate=1r/s;", "unknown"),
    ("commerce_limit_policy x key=ip rate=1r/s cost=0;", "cost is what"),
    ("commerce_limit_policy x key=ip rate=1r/s cost=2;", "nothing would ever pass"),
    ("commerce_limit_policy x key=ip rate=1r/s status=200;", "400 to 599"),
    ("commerce_limit_policy x key=ip rate=1r/s ip6_prefix=129;", "1 to 128"),
    ("commerce_limit_policy x key=ip rate=1r/s nonsense;", "policies take key="),
    ("commerce_limit nobody;", 'no policy "nobody"'),
    ("commerce_limit off ip;", "stands alone"),
    ("commerce_limit ip; commerce_limit off;", "stands alone"),
    ("commerce_limit_log_level loud;", "invalid value"),
])
def test_configuration_faults_name_the_cure(shop, line, why):
    shop.expect_log(r"\[emerg\]")
    shop.configure(http=line)
    try:
        done = shop.check_conf()
        assert done.returncode
        assert why in done.stdout + done.stderr + "\n".join(shop.log_lines()[-20:])
    finally:
        shop.configure()
