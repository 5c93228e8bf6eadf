"""Secrets, sizes and what must not come in at all."""

import re
import socket

import pytest

from operations import operations
from stack import ROOT, complete
from world import World, made

# ---- secrets only by file ----

@pytest.mark.parametrize("directive, said", [
    ("password=hunter22", "takes no password=.*password_file="),
    ("password_file={open}", "can be read by everyone: chmod 0400"),
    ("password_file={written}", "can be written by others"),
    ("password_file={nothing}", "one line, the password"),
    ("password_file=/nowhere", "cannot be opened"),
    ("commerce_jwt_key k9 HS256 hunter22hunter22hunter22hunter22hunter22;", "cannot open key file"),
    ("commerce_jwt_key k9 HS256 {open};", "everyone may read the secret"),
    ("commerce_jwt_key k9 HS256 {written};", "others may write"),
    ("commerce_jwt_key k9 HS256 {short};", "at least 32"),
    ("commerce_field_key f9 {open};", "everyone may read the secret"),
    ("commerce_field_key f9 {short};", "at least 32"),
    ("commerce_field_key f9 hunter22;", "cannot open key file"),
    ("commerce_field_key f1 {good};", "duplicate key id"),
    ("commerce_field_key f9 {good} encrypt;", "encrypts already"),
    ("commerce_field_key f9 {good} sign;", 'it can only be "encrypt"'),
])
def test_a_secret_comes_from_a_file_that_others_cannot_read(shop, tmp_path, directive, said):
    files = {"open": ("a" * 40, 0o444), "written": ("a" * 40, 0o420), "nothing": ("\n", 0o400), "short": ("abc", 0o400),
             "good": ("b" * 64, 0o400)}
    names = {}
    for name, (text, mode) in files.items():
        path = tmp_path / name
        path.write_text(text)
        path.chmod(mode)
        names[name] = path
    directive = directive.format(**names)
    if directive.startswith("password"):        # of a lane that nginx.conf has
        check_conf(shop, said, replace=[(r"(commerce_postgres  slow .*)password_file=\S+", r"\1" + directive)])
    else:
        check_conf(shop, said, http=directive)


def check_conf(shop, said, **changes):
    mark = shop.log_size()
    shop.configure(**changes)
    done = shop.check_conf()
    shop.configure()
    text = done.stdout + done.stderr + shop.log_file().read_bytes()[mark:].decode()
    shop.expect_log(said)
    assert done.returncode and re.search(said, text, re.S), text
    assert "password=hunter22" not in text


def test_redis_takes_no_password_inline_either(shop):
    check_conf(shop, "takes no password=", replace=[(r"(commerce_redis  \S+) password_file=\S+", r"\1 password=hunter22")])


def test_no_directive_takes_a_secret_inline(shop):
    """Whatever directive of ours has a secret in its name or a parameter takes a file."""
    inline = []
    for page in (ROOT / "docs" / "directives").glob("*.md"):
        for syntax in re.findall(r"Syntax:\s+(.*?);", page.read_text(), re.S):
            if re.search(r"password|secret|_key\b|token", syntax) and not re.search(r"file|FILE|_cost|_limit|zone|key=|ttl", syntax):
                inline.append(syntax)
    assert inline == []


# ---- sizes by route (A19) ----

@pytest.fixture(scope="module")
def bodies(shop):
    """Every operation that takes a body, with somebody who may call it and an address that exists."""
    world = World(shop)
    found = []
    for op in operations(shop.contract):
        if op.content:
            values = next(iter(world.path_values(op)))
            found.append((op, op.url(values), op.edge.get("body_limit", 65536), next(iter(op.content))))
    assert len(found) > 20
    platform = shop.rows("SELECT u.id, u.tenant_id FROM shop.app_user u JOIN shop.tenant t ON t.id = u.tenant_id "
                         "WHERE t.slug = 'platform'")[0]
    callers = {"demo": shop.token(shop.staff().user_id, roles=["customer", "staff", "owner"]),
               "service": shop.token(shop.staff().user_id, roles=["service"]),
               "platform": shop.token(platform["id"], roles=["platform"], tenant_id=platform["tenant_id"])}
    return callers, found


def send(shop, op, url, kind, owner, framing, chunks):
    who = op.auth if op.auth in ("platform", "service") else "demo"
    host = "platform" if who == "platform" else "demo"
    head = (f"{op.method} {url} HTTP/1.1\r\nHost: {host}.localhost\r\nContent-Type: {kind}\r\nConnection: close\r\n"
            f"Authorization: Bearer {owner[who]}\r\nIdempotency-Key: too-large\r\nIf-Match: \"1\"\r\n{framing}\r\n\r\n")
    with socket.create_connection(("127.0.0.1", shop.port), timeout=120) as s:
        s.sendall(head.encode())
        try:
            for chunk in chunks:
                s.sendall(chunk)
        except ConnectionError:
            pass                # the answer came before the body's end
        answer = b""
        try:
            while not complete(answer) and (piece := s.recv(65536)):
                answer += piece
        except ConnectionError:
            pass
    return answer


def test_one_byte_too_many(shop, bodies):
    """413 by the length alone: nothing of the body is read."""
    owner, found = bodies
    for op, url, limit, kind in found:
        answer = send(shop, op, url, kind, owner, f"Content-Length: {limit + 1}", [])
        assert answer.startswith(b"HTTP/1.1 413"), (op, limit, answer[:300])
        assert b"application/problem+json" in answer


def test_one_byte_too_many_in_chunks(shop, bodies):
    """The length is not told: it is counted."""
    owner, found = bodies
    for op, url, limit, kind in found:
        size, chunks = 65536, []
        whole = limit + 1
        while whole:
            n = min(size, whole)
            chunks.append(b"%x\r\n" % n + b" " * n + b"\r\n")
            whole -= n
        answer = send(shop, op, url, kind, owner, "Transfer-Encoding: chunked", [*chunks, b"0\r\n\r\n"])
        assert answer.startswith(b"HTTP/1.1 413"), (op, limit, answer[:300])


def test_as_many_as_are_allowed(shop, bodies):
    """White space up to the limit is refused for what it says, not for its size."""
    owner, found = bodies
    for op, url, limit, kind in found:
        if limit > 1 << 20:
            continue
        answer = send(shop, op, url, kind, owner, f"Content-Length: {limit}", [b" " * limit])
        assert b" 413 " not in answer.split(b"\r\n")[0] and not answer.startswith(b"HTTP/1.1 5"), (op, answer[:300])


# ---- no card data (A14) ----

CARD = re.compile(r"(^|[_.-])(card|cards|pan|cvv\d?|cvc\d?|ccv|cc|iban|expiry|exp_?(month|year)|track_?[12]|magstripe|pin|security_code)([_.-]|$)",
                  re.I)


def names(node):
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "properties":
                yield from value
            if key == "parameters" and isinstance(value, list):
                yield from (p["name"] for p in value if "name" in p)
            yield from names(value)
    elif isinstance(node, list):
        for value in node:
            yield from names(value)


def test_nothing_like_a_card_in_contract_or_tables(shop):
    assert CARD.search("card_number") and CARD.search("cvv") and CARD.search("exp_month") and not CARD.search("discard")
    found = set(names(shop.contract))
    assert len(found) > 80 and "shipping_address" in found and "limit" in found
    columns = {r["n"] for r in shop.rows("SELECT attname AS n FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n "
                                         "ON n.oid = c.relnamespace WHERE n.nspname IN ('shop', 'event', 'audit') AND attnum > 0")}
    columns |= {r["n"] for r in shop.rows("SELECT unnest(proargnames) AS n FROM pg_proc WHERE pronamespace IN "
                                          "('api'::regnamespace, 'domain'::regnamespace)")}
    assert not {n for n in found if CARD.search(n)}
    # a product's card is what lists show of it
    assert not {n for n in columns if CARD.search(n)} - {"product_card", "card", "cards"}


@pytest.mark.parametrize("member", ["card_number", "cvv", "card"])
def test_a_card_is_refused_unread(shop, member):
    """Unknown members are refused, and the refusal does not repeat their value."""
    answer = shop.user().post("/api/v1/checkout", json={member: "4111111111111111"})
    assert answer.status_code == 422 and "4111111111111111" not in answer.text
    made(shop.user().get("/api/v1/cart"))
    for log in (shop.folder / "logs").iterdir():
        assert "4111111111111111" not in log.read_text(errors="replace"), log
