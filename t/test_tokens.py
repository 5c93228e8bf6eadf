"""Tokens that must not be taken: each is refused by the API and by commerce_auth, with one answer for all of them."""

import base64
import hashlib
import hmac
import json
import socket
import subprocess
import time

import httpx
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils

PROFILE = "/api/v1/users/profile"
GUARDED = "/guarded"
ORDER = 0xffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551         # of P-256


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def text(part):
    return part if isinstance(part, bytes) else json.dumps(part).encode()


class Kit:
    """Our keys, an attacker's keys, and claims that are good."""

    def __init__(self, shop):
        self.secrets = shop.folder / "secrets"
        self.secret = (self.secrets / "jwt").read_text().strip().encode()
        self.rsa = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.ec = ec.generate_private_key(ec.SECP256R1())
        self.evil_rsa = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.evil_ec = ec.generate_private_key(ec.SECP256R1())
        self.subject = shop.value("SELECT id::text FROM shop.app_user WHERE tenant_id = 1 AND email = 'test@example.com'")
        self.refresh = None
        for name, key in (("rs", self.rsa), ("es", self.ec)):
            path = self.secrets / f"tokens-{name}.pub"
            path.write_bytes(self.pem(key))
            path.chmod(0o644)

    def conf(self):
        return (f"commerce_jwt_key rs RS256 {self.secrets}/tokens-rs.pub;\n"
                f"commerce_jwt_key es ES256 {self.secrets}/tokens-es.pub;")

    @staticmethod
    def pem(key):
        return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)

    @staticmethod
    def der(key):
        return key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)

    def claims(self, **changes):
        now = int(time.time())
        claims = {"iss": "nginx-commerce", "aud": "nginx-commerce", "sub": self.subject, "tid": "1", "iat": now, "nbf": now,
                  "exp": now + 300, "roles": ["customer"], **changes}
        return {k: v for k, v in claims.items() if v is not ...}

    def header(self, alg="HS256", kid="k1", **changes):
        header = {"alg": alg, "typ": "at+jwt", "kid": kid, **changes}
        return {k: v for k, v in header.items() if v is not ...}

    def hs(self, header=None, claims=None, key=None, digest=hashlib.sha256):
        header = self.header() if header is None else header
        signed = f"{b64(text(header))}.{b64(text(self.claims() if claims is None else claims))}"
        return f"{signed}.{b64(hmac.new(self.secret if key is None else key, signed.encode(), digest).digest())}"

    def rs(self, header=None, claims=None, key=None, how=None, digest=None):
        signed = f"{b64(text(header or self.header('RS256', 'rs')))}.{b64(text(claims or self.claims()))}"
        signature = (key or self.rsa).sign(signed.encode(), how or padding.PKCS1v15(), digest or hashes.SHA256())
        return f"{signed}.{b64(signature)}"

    def es(self, header=None, claims=None, key=None, form="raw", signature=None):
        signed = f"{b64(text(header or self.header('ES256', 'es')))}.{b64(text(claims or self.claims()))}"
        if signature is None:
            signature = (key or self.ec).sign(signed.encode(), ec.ECDSA(hashes.SHA256()))
            if form == "raw":
                r, s = utils.decode_dss_signature(signature)
                signature = r.to_bytes(32, "big") + s.to_bytes(32, "big")
        return f"{signed}.{b64(signature)}"


@pytest.fixture(scope="module")
def kit(shop):
    kit = Kit(shop)
    with shop.configured(http=kit.conf(), server=f"location = {GUARDED} {{ commerce_auth required; commerce_jwks; }}"):
        login = shop.edge().post("/api/v1/auth/login", json={"email": "test@example.com", "password": "password"}).json()
        kit.refresh = login["refresh_token"]
        kit.client = httpx.Client(base_url=shop.url, verify=False, timeout=120, headers={"Host": "demo.localhost"})
        kit.shop = shop
        yield kit
        kit.client.close()


def answers(kit, *values):
    """Status, headers of interest and body of both doors; the correlation id and the address are the request's own."""
    found = []
    for path in (PROFILE, GUARDED):
        answer = kit.client.get(path, headers=[("Authorization", value) for value in values])
        body = answer.json()
        if answer.status_code >= 400:
            assert body.pop("correlation_id") == answer.headers["x-correlation-id"]
            assert body.pop("instance") == path
        found.append((answer.status_code, answer.headers.get("www-authenticate"), sorted(answer.headers.keys()),
                      answer.headers["content-type"], json.dumps(body)))
    return found


@pytest.fixture(scope="module")
def refusal(kit):
    """What every bad token gets: the answer to one whose signature is wrong."""
    first, second = answers(kit, "Bearer " + kit.hs(key=b"x" * 64))
    assert first[0] == second[0] == 401 and first[1] == second[1] == 'Bearer realm="nginx-commerce", error="invalid_token"'
    assert first[4] == second[4] and json.loads(first[4])["code"] == "unauthorized"
    return [first, second]


def refused(kit, refusal, token):
    assert answers(kit, "Bearer " + token) == refusal


# ---- good ones, so that the others are refused for their fault alone ----


def test_good(kit):
    for token in (kit.hs(), kit.rs(), kit.es(), kit.hs(claims=kit.claims(aud=["x", "nginx-commerce"])),
                  kit.hs(claims=kit.claims(nbf=...)), kit.hs(claims=kit.claims(extra={"a": [1, None, "x"]})),
                  kit.hs(kit.header(typ="application/at+jwt")), kit.hs(kit.header(typ="AT+JWT"))):
        assert [a[0] for a in answers(kit, "Bearer " + token)] == [200, 200], token
        assert [a[0] for a in answers(kit, "bearer " + token)] == [200, 200]


def test_header_members_that_name_keys_are_not_read(kit):
    """A good token stays good whatever key it claims to bring along, and the address is not visited."""
    for extra in ({"jku": "http://127.0.0.1:1/keys"}, {"x5u": "http://127.0.0.1:1/"}, {"jwk": {"kty": "oct", "k": "AA"}},
                  {"x5c": ["MII"]}, {"x5t": "x"}):
        assert [a[0] for a in answers(kit, "Bearer " + kit.hs(kit.header(**extra)))] == [200, 200]


# ---- alg ----


@pytest.mark.parametrize("alg", [
    "none", "None", "NONE", "nOnE", "none ", " none", "no\u006ee", "noneHS256", "", "hs256", "Hs256", "HS256 ", "HS256\n", "HS384",
    "HS512", "RS384", "RS512", "PS256", "ES384", "ES256K", "EdDSA", "HS1", "dir", "A128KW", "ХS256", None, True, 0, 256, [], ["HS256"],
    {"alg": "HS256"}, ...,
], ids=lambda a: repr(a)[:30])
def test_alg(kit, refusal, alg):
    header = kit.header(alg=alg)
    signed = f"{b64(text(header))}.{b64(text(kit.claims()))}"
    for token in (kit.hs(header), signed + ".", signed, signed + "." + b64(b"\0" * 32), kit.hs(header, key=b""),
                  kit.hs(header, digest=hashlib.sha512)):
        refused(kit, refusal, token)


def test_our_public_keys_are_no_secrets(kit, refusal):
    """HS256 "signed" with what everybody knows: the public key in every form that a library may have read."""
    for kid, key in (("rs", kit.rsa), ("es", kit.ec)):
        pem = kit.pem(key)
        for secret in (pem, pem.strip(), pem.replace(b"\n", b"\r\n"), b"".join(pem.split(b"\n")[1:-2]), kit.der(key), b""):
            for name in (kid, "k1", ...):
                refused(kit, refusal, kit.hs(kit.header("HS256", name), key=secret))


def test_a_key_is_of_one_algorithm(kit, refusal):
    for header in (kit.header("HS256", "rs"), kit.header("HS256", "es"), kit.header("RS256", "k1"), kit.header("ES256", "k1")):
        refused(kit, refusal, kit.hs(header))
    for header in (kit.header("RS256", "es"), kit.header("ES256", "rs"), kit.header("HS256", "rs"), kit.header("RS256", "k1")):
        refused(kit, refusal, kit.rs(header))
        refused(kit, refusal, kit.es(header))


# ---- kid ----


@pytest.mark.parametrize("kid", [
    ..., None, "", "k2", "K1", "k", "k11", " k1", "k1 ", "k1\0", "\0", "k1\0k1", "к1", "k1\u200b", "k\u0031\u0301", "../jwt",
    "../../../../../../etc/passwd", "../../../../../../dev/null", "/dev/null", "..%2fjwt", "secrets/jwt", "file:///dev/null", "C:\\k1",
    "http://127.0.0.1/key", "k1' OR '1'='1", "k1'; DROP TABLE shop.app_user; --", "' UNION SELECT 'x' --", "k1\"", "`id`", "$(id)",
    "|id", "%s%s%s%n", "{{7*7}}", "*", "k*", "k1,rs", "0", 0, 1, 1.5, True, ["k1"], {"kid": "k1"}, "\u202ek1", "k1\r\nX: y", "\U0001f511",
], ids=lambda k: repr(k)[:40])
def test_kid(kit, refusal, kid):
    for key in (kit.secret, b"", b"\0", b"root:x:0:0"):
        refused(kit, refusal, kit.hs(kit.header(kid=kid), key=key))


def test_huge_kid(kit, refusal):
    for size in (65, 1000, 5000):
        refused(kit, refusal, kit.hs(kit.header(kid="k" * size)))


# ---- the rest of the header ----


@pytest.mark.parametrize("extra", [
    {"crit": ["exp"]}, {"crit": []}, {"crit": None}, {"crit": ["b64"], "b64": False}, {"crit": "exp"}, {"crit": [""]},
    {"typ": "JWT"}, {"typ": "jwt"}, {"typ": ...}, {"typ": ""}, {"typ": "at+jwt "}, {"typ": "refresh+jwt"}, {"typ": "id+jwt"},
    {"typ": ["at+jwt"]}, {"typ": None}, {"typ": "application/jwt"}, {"typ": "logout+jwt"},
], ids=str)
def test_header(kit, refusal, extra):
    refused(kit, refusal, kit.hs(kit.header(**extra)))


def test_keys_in_the_header(kit, refusal):
    """An attacker's own key, brought along in every way that a header knows."""
    numbers = kit.evil_rsa.public_key().public_numbers()
    point = kit.evil_ec.public_key().public_numbers()
    jwk_rsa = {"kty": "RSA", "n": b64(numbers.n.to_bytes(256, "big")), "e": "AQAB", "kid": "rs", "use": "sig", "alg": "RS256"}
    jwk_ec = {"kty": "EC", "crv": "P-256", "x": b64(point.x.to_bytes(32, "big")), "y": b64(point.y.to_bytes(32, "big")), "kid": "es"}
    jwk_oct = {"kty": "oct", "k": b64(b"s" * 32), "kid": "k1", "alg": "HS256"}
    for extra in ({"jwk": jwk_rsa}, {"jku": "http://127.0.0.1:1/jwks"}, {"x5u": "http://127.0.0.1:1/c.pem"},
                  {"x5c": [base64.b64encode(kit.der(kit.evil_rsa)).decode()]}, {"x5t": "AA", "x5t#S256": "AA"}):
        for kid in ("rs", "evil", ...):
            refused(kit, refusal, kit.rs(kit.header("RS256", kid, **extra), key=kit.evil_rsa))
    for kid in ("es", ...):
        refused(kit, refusal, kit.es(kit.header("ES256", kid, jwk=jwk_ec), key=kit.evil_ec))
    for kid in ("k1", ...):
        refused(kit, refusal, kit.hs(kit.header(kid=kid, jwk=jwk_oct), key=b"s" * 32))


@pytest.mark.parametrize("header", [
    b'{"alg":"none","alg":"HS256","typ":"at+jwt","kid":"k1"}', b'{"alg":"HS256","alg":"none","typ":"at+jwt","kid":"k1"}',
    b'{"alg":"HS256","typ":"at+jwt","kid":"k2","kid":"k1"}', b'{"alg":"HS256","typ":"at+jwt","kid":"k1","\\u006bid":"k1"}',
    b'{"alg":"HS256","typ":"at+jwt","kid":"k1",}', b'{"alg":"HS256","typ":"at+jwt","kid":"k1"} ,', b'{"alg":"HS256","typ":"at+jwt","kid":"k1"}{}',
    b'\xef\xbb\xbf{"alg":"HS256","typ":"at+jwt","kid":"k1"}', b'{"alg":"HS256","typ":"at+jwt","kid":"k1","x":"\xff"}',
    b'{"alg":"HS256","typ":"at+jwt","kid":"k1","x":"\xc0\xae"}', b'{"alg":"HS256","typ":"at+jwt","kid":"k1","x":"\\ud800"}',
    b'{"alg":"HS256","typ":"at+jwt","kid":"k1","x":"\\u0000"}', b'{"alg":"HS256","typ":"at+jwt","kid":"k1","x":"\n"}',
    b"{'alg':'HS256','typ':'at+jwt','kid':'k1'}", b'{alg:"HS256"}', b"[]", b"null", b'"HS256"', b"", b"{", b"{}", b"\0",
    b'{"alg":"HS256","typ":"at+jwt","kid":"k1","x":' + b"[" * 40 + b"]" * 40 + b"}",
    b'{"alg":"HS256","typ":"at+jwt","kid":"k1","x":[' + b"1," * 500 + b"1]}",
    b'{"alg":"HS256","typ":"at+jwt","kid":"k1","x":01}', b'{"alg":"HS256","typ":"at+jwt","kid":"k1"/**/}',
    b'{"ALG":"HS256","TYP":"at+jwt","KID":"k1"}',
], ids=lambda h: repr(h)[:60])
def test_header_is_strict_json(kit, refusal, header):
    refused(kit, refusal, kit.hs(header))


# ---- claims ----

PAST, FUTURE = 1_000_000_000, 9_999_999_999
NO_TIME = [None, ..., True, False, "", "9999999999", "soon", [], [FUTURE], {}, 1.5, 9999999999.5, -1]


@pytest.mark.parametrize("claim", [
    *({"exp": v} for v in [*NO_TIME, 0, 1, PAST, 2**53, 2**53 + 1, 2**63, 2**64]),
    *({"iat": v} for v in [*NO_TIME, FUTURE, 2**63]),
    *({"nbf": v} for v in [v for v in NO_TIME if v is not ...] + [FUTURE, 2**63]),
    *({"iss": v} for v in [None, ..., "", "someone", "nginx-commerc", "nginx-commerce ", "NGINX-COMMERCE", "nginx-commerce/", 1, True,
                           ["nginx-commerce"], {"nginx-commerce": 1}, "https://nginx-commerce"]),
    *({"aud": v} for v in [None, ..., "", "someone", "nginx-commerce ", "nginx-commerce,x", 1, True, [], [""], ["someone"], [None],
                           ["nginx-commerce", 1], ["nginx-commerce", None], [["nginx-commerce"]], {"nginx-commerce": 1}, "*"]),
    *({"sub": v} for v in [None, ..., "", "admin", 1, True, [], {}, "00000000-0000-0000-0000-00000000000", "' OR 1=1 --",
                           "01a1fd4efa597 2c186a0b6ab70e0a23e", "{01a1fd4e-fa59-72c1-86a0-b6ab70e0a23e}"]),
    *({"tid": v} for v in [1, "", "0", "01", "+1", "-1", "1 ", "1.0", "1e0", "1 OR 1=1", None, [], {}, True, "9" * 19, "0x1", "\u0661"]),
    *({"sid": v} for v in ["", "x", 1, None, [], "01a1fd4e-fa59-72c1-86a0-b6ab70e0a23"]),
    *({"roles": v} for v in ["customer", None, {}, 1, [1], [None], [["customer"]], ["customer staff"], ["customer", ""], ["Staff"],
                             ["customer\u0000"], ["c" * 65], ["r" * 60] * 20]),
    *({"scope": v} for v in [["catalog.write"], None, {}, 1, " ", "a  b", " a", "a ", "a,b", "A.b", "a\tb"]),
], ids=lambda c: repr(c)[:60])
def test_claims(kit, refusal, claim):
    refused(kit, refusal, kit.hs(claims=kit.claims(**claim)))


@pytest.mark.parametrize("claim", ['"exp":1e10', '"exp":9.9e9', '"exp":09999999999', '"exp":+9999999999', '"exp":0x7fffffff', '"exp":Infinity',
                                   '"exp":NaN', '"exp":1e400', '"exp":-0', '"iat":1.0', '"iat":1e0'])
def test_times_as_no_python_writes_them(kit, refusal, claim):
    name = claim.split(":")[0].strip('"')
    body = json.dumps(kit.claims(**{name: ...}))
    refused(kit, refusal, kit.hs(claims=(body[:-1] + "," + claim + "}").encode()))


@pytest.mark.parametrize("extra", ['"tid":"2"', '"tid":"1"', '"roles":["owner"]', '"exp":9999999999', '"sub":"x"', '"aud":"nginx-commerce"',
                                   '"iss":"nginx-commerce"', '"\\u0074id":"2"', '"rol\\u0065s":["owner"]', '"iat":1', '"nbf":1'])
def test_duplicate_claims(kit, refusal, extra):
    body = json.dumps(kit.claims())
    refused(kit, refusal, kit.hs(claims=(body[:-1] + "," + extra + "}").encode()))
    refused(kit, refusal, kit.hs(claims=("{" + extra + "," + body[1:]).encode()))


@pytest.mark.parametrize("payload", [b"", b"null", b"[]", b"1", b'"x"', b"{", b"{}", b"{}{}", b"\xff", b"\0", b"\xef\xbb\xbf{}"], ids=repr)
def test_no_claims(kit, refusal, payload):
    signed = f"{b64(text(kit.header()))}.{b64(payload)}"
    refused(kit, refusal, f"{signed}.{b64(hmac.new(kit.secret, signed.encode(), hashlib.sha256).digest())}")


def test_claims_in_the_header_do_not_count(kit, refusal):
    """RFC 7519 lets JWEs replicate claims in the header; ours are signed in the payload or not there."""
    claims = kit.claims()
    refused(kit, refusal, kit.hs(kit.header(**claims), kit.claims(exp=...)))
    refused(kit, refusal, kit.hs(kit.header(exp=FUTURE), kit.claims(exp=PAST)))


# ---- signature ----


def test_signature(kit, refusal):
    for good in (kit.hs(), kit.rs(), kit.es()):
        head, payload, signature = good.split(".")
        raw = base64.urlsafe_b64decode(signature + "==")
        for other in (b"", raw[:-1], raw + b"\0", b"\0" * len(raw), b"\xff" * len(raw), raw[::-1], bytes([raw[0] ^ 1]) + raw[1:],
                      raw[:-1] + bytes([raw[-1] ^ 1]), b"\0" + raw[1:], raw * 2):
            # one signature in 256 begins with a zero
            if other != raw:
                refused(kit, refusal, f"{head}.{payload}.{b64(other)}")
        for changed in (f"{head}.{payload}x.{signature}", f"{head}x.{payload}.{signature}", f"{payload}.{head}.{signature}",
                        f"{head}.{b64(text(kit.claims(roles=['owner'])))}.{signature}"):
            refused(kit, refusal, changed)
    refused(kit, refusal, kit.hs(digest=hashlib.sha512))
    refused(kit, refusal, kit.hs(digest=hashlib.sha1))
    refused(kit, refusal, kit.rs(key=kit.evil_rsa))
    refused(kit, refusal, kit.rs(how=padding.PSS(padding.MGF1(hashes.SHA256()), 32)))
    refused(kit, refusal, kit.rs(digest=hashes.SHA512()))
    refused(kit, refusal, kit.rs(digest=hashes.SHA1()))
    refused(kit, refusal, kit.es(key=kit.evil_ec))


def test_psychic_signatures(kit, refusal):
    """ECDSA with numbers that no signature has, and in ASN.1."""
    values = (0, 1, ORDER, ORDER - 1, ORDER + 1, 2**256 - 1)
    for r in values:
        for s in values:
            refused(kit, refusal, kit.es(signature=r.to_bytes(32, "big") + s.to_bytes(32, "big")))
    refused(kit, refusal, kit.es(form="der"))
    refused(kit, refusal, kit.es(signature=utils.encode_dss_signature(0, 0)))


# ---- shape ----


def test_base64url_is_canonical(kit, refusal):
    """A verified token in another spelling is another token: else one could not be told from the other when it is revoked or cached."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    good = kit.hs(claims=kit.claims(pad="~~~???>>>"))
    assert [a[0] for a in answers(kit, "Bearer " + good)] == [200, 200]
    head, payload, signature = good.split(".")
    # 32 bytes leave two bits of the last character over
    last = alphabet.index(signature[-1])
    assert last % 4 == 0
    for bits in (1, 2, 3):
        refused(kit, refusal, f"{head}.{payload}.{signature[:-1]}{alphabet[last + bits]}")
    for other in (good + "=", f"{head}=.{payload}.{signature}", f"{head}.{payload}==.{signature}", f"{head}.{payload}.{signature}==",
                  good.replace("-", "+").replace("_", "/") if "-" in good or "_" in good else good + "/", good.replace(".", "%2e"),
                  f"{head} .{payload}.{signature}", f"{head}.{payload}\t.{signature}", good[:20] + "\u00e9" + good[20:], good + "A",
                  good + "AAAA", "A" + good):
        assert answers(kit, ("Bearer " + other).encode("utf-8")) == refusal, other


@pytest.mark.parametrize("make", [
    lambda g: ".", lambda g: "..", lambda g: "...", lambda g: "a", lambda g: "a.b", lambda g: "a.b.c",
    lambda g: g + ".", lambda g: "." + g, lambda g: g + ".x", lambda g: g + ".x.y", lambda g: g.rsplit(".", 1)[0],
    lambda g: g.rsplit(".", 1)[0] + ".", lambda g: g.replace(".", "..", 1), lambda g: g.replace(".", ",", 1), lambda g: g + " " + g,
    lambda g: g + "," + g, lambda g: f"{g}, Bearer {g}", lambda g: f'"{g}"', lambda g: f"<{g}>", lambda g: "token=" + g, lambda g: "Bearer " + g,
    lambda g: json.dumps({"payload": g.split(".")[1], "protected": g.split(".")[0], "signature": g.split(".")[2]}),
    lambda g: "null", lambda g: "undefined", lambda g: "[object Object]", lambda g: "A" * 40, lambda g: g.upper(), lambda g: g.swapcase(),
], ids=str)
def test_shape(kit, refusal, make):
    refused(kit, refusal, make(kit.hs()))


@pytest.mark.parametrize("size", [8193, 9000, 16000, 17000, 40000, 70000, 3_000_000])
def test_size(kit, refusal, size):
    """Over the limit of a token, of one header buffer, of all header buffers."""
    token = kit.hs(claims=kit.claims(pad="x" * int(size * 0.74)))
    assert len(token) > size * 0.98
    for path, want in zip((PROFILE, GUARDED), refusal):
        answer = send(kit, path, f"Authorization: Bearer {token}\r\n")
        assert like(answer, path) == (401, want[1], want[4]), answer[:300]


@pytest.mark.parametrize("value", ["Bearer", "Bearer ", "Bearer  ", "bearer", "BEARER  "])
def test_scheme_alone(kit, refusal, value):
    for path, want in zip((PROFILE, GUARDED), refusal):
        assert like(send(kit, path, f"Authorization: {value}\r\n"), path) == (401, want[1], want[4])


def test_as_long_as_it_may_be(kit):
    token = kit.hs(claims=kit.claims(pad="x" * 5800))
    assert 8000 < len(token) <= 8192
    assert [a[0] for a in answers(kit, "Bearer " + token)] == [200, 200]


def send(kit, path, headers):
    """A request of any bytes; what comes back until the server closes, although it may close before all was sent."""
    with socket.create_connection(("127.0.0.1", kit.shop.port), timeout=120) as s:
        request = f"GET {path} HTTP/1.1\r\nHost: demo.localhost\r\n{headers}Connection: close\r\n\r\n".encode()
        answer = b""
        try:
            s.sendall(request)
        except (BrokenPipeError, ConnectionResetError):
            pass
        try:
            while chunk := s.recv(65536):
                answer += chunk
        except ConnectionResetError:
            pass
        return answer


def like(answer, path):
    head, body = answer.split(b"\r\n\r\n", 1)
    lines = head.decode().split("\r\n")
    names = {line.split(": ")[0].lower(): line.split(": ", 1)[1] for line in lines[1:]}
    if "transfer-encoding" in names:
        body = body.split(b"\r\n", 1)[1].rsplit(b"\r\n0\r\n", 1)[0]
    body = json.loads(body)
    body.pop("correlation_id")
    assert body.pop("instance") == path
    return int(lines[0].split()[1]), names["www-authenticate"], json.dumps(body)


def test_two_authorization_headers(kit, refusal):
    good = "Bearer " + kit.hs()
    for first, second in ((good, good), (good, "Bearer x"), ("Bearer x", good), ("Basic eDp4", good), (good, "Basic eDp4"), (good, ""),
                          ("", good)):
        for path, want in zip((PROFILE, GUARDED), refusal):
            for name in ("Authorization", "authorization", "AUTHORIZATION"):
                answer = send(kit, path, f"Authorization: {first}\r\n{name}: {second}\r\n")
                assert like(answer, path) == (401, want[1], want[4]), (first, second)


def test_elsewhere_than_in_the_header(kit):
    """A token in the address, a cookie, the body or another header is none."""
    token = kit.hs()
    for path in (PROFILE, GUARDED):
        for headers in ({"Cookie": f"Authorization=Bearer {token}; access_token={token}; token={token}"}, {"X-Authorization": "Bearer " + token},
                        {"Proxy-Authorization": "Bearer " + token}, {"X-Access-Token": token}, {"Authorization": "Basic " + token},
                        {"Authorization": "Token " + token}, {"Authorization": token}, {"Authorization": "Bearer" + token},
                        {"Authorization": "Bearer\t" + token}, {"Authorization": "JWT " + token}, {"Authorization": "DPoP " + token}):
            assert kit.client.get(path, headers=headers).status_code == 401, headers
    assert kit.client.get(GUARDED, params={"access_token": token, "token": token, "jwt": token}).status_code == 401


def test_other_tokens_of_ours(kit, refusal):
    """A refresh token and a login's body are no access tokens."""
    refused(kit, refusal, kit.refresh)
    refused(kit, refusal, b64(kit.refresh.encode()))
    for typ in ("rt+jwt", "JWT", "refresh"):
        refused(kit, refusal, kit.hs(kit.header(typ=typ)))


def test_refused_tokens_leave_nothing_behind(kit, refusal):
    """A good token is good after all that, and a bad one that differs by its last byte is bad, again and again."""
    good = kit.rs()
    bad = good[:-2] + ("AA" if not good.endswith("AA") else "BA")
    for _ in range(3):
        assert [a[0] for a in answers(kit, "Bearer " + good)] == [200, 200]
        refused(kit, refusal, bad)


# ---- public keys ----


def test_jwks(kit):
    """The set verifies our tokens elsewhere, and has no secret in it."""
    answer = kit.client.get("/.well-known/jwks.json")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/jwk-set+json"
    assert answer.headers["cache-control"] == "public, max-age=300"
    keys = {key["kid"]: key for key in answer.json()["keys"]}
    assert set(keys) == {"rs", "es"}
    n = kit.rsa.public_key().public_numbers().n
    assert keys["rs"] == {"kty": "RSA", "n": b64(n.to_bytes(256, "big")), "e": "AQAB", "use": "sig", "alg": "RS256", "kid": "rs"}
    point = kit.ec.public_key().public_numbers()
    assert keys["es"] == {"kty": "EC", "crv": "P-256", "x": b64(point.x.to_bytes(32, "big")), "y": b64(point.y.to_bytes(32, "big")),
                          "use": "sig", "alg": "ES256", "kid": "es"}
    assert kit.secret.decode() not in answer.text and "oct" not in answer.text

    again = kit.client.get("/.well-known/jwks.json", headers={"If-None-Match": answer.headers["etag"]})
    assert again.status_code == 304 and not again.content
    assert kit.client.get("/.well-known/jwks.json", headers={"If-None-Match": '"x"'}).status_code == 200
    head = kit.client.head("/.well-known/jwks.json")
    assert head.status_code == 200 and head.headers["content-length"] == str(len(answer.content)) and not head.content
    assert kit.client.post("/.well-known/jwks.json").status_code == 405
    # the same keys, the same tag
    assert kit.client.get("/.well-known/jwks.json").headers["etag"] == answer.headers["etag"]


def test_the_set_of_a_private_key_is_public(kit):
    """A signing key's file holds both parts."""
    path = kit.secrets / "tokens-signing.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", path],
                   check=True, capture_output=True)
    path.chmod(0o400)
    shop = kit.shop
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    shop.configure(http=kit.conf() + f"\ncommerce_jwt_key signing ES256 {path} sign;",
                   server=f"location = {GUARDED} {{ commerce_auth required; commerce_jwks; }}", replace=[(r"(secrets/jwt) sign;", r"\1;")])
    shop.reload()
    text_ = httpx.get(f"{shop.url}/.well-known/jwks.json").text
    private = key.private_numbers().private_value
    assert '"kid":"signing"' in text_ and '"d"' not in text_ and b64(private.to_bytes(32, "big")) not in text_
