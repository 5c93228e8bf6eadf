"""Keys change under load, and no good token is refused; what the directive page shows works."""

import re
import subprocess
import threading
import time

import httpx
import jwt
import pytest

from stack import CHEAP, ROOT, wait_for

PROFILE = "/api/v1/users/profile"
GUARDED = "location = /guarded { commerce_auth required; commerce_jwks; }"
EMAIL = "rotation@example.com"


class Load(threading.Thread):
    """A customer who logs in and works, on a kept connection and on new ones, again and again."""

    def __init__(self, shop, name):
        super().__init__(name=name)
        self.shop = shop
        self.stop = threading.Event()
        self.renew = threading.Event()
        self.kid = None
        self.kids = set()
        self.good = 0
        self.bad = []

    def one(self, client, token):
        for path in (PROFILE, "/guarded"):
            headers = {"Authorization": f"Bearer {token}", "Host": "demo.localhost"}
            try:
                answer = client.get(path, headers=headers)
            except httpx.TransportError:
                # a worker that leaves closes idle connections, perhaps just when one is used again: clients ask once more
                answer = client.get(path, headers=headers)
            if answer.status_code == 200:
                self.good += 1
            else:
                self.bad.append((self.kid, path, answer.status_code, answer.text))

    def run(self):
        options = {"base_url": self.shop.url, "verify": False, "timeout": 60}
        with httpx.Client(**options) as kept:
            while not self.stop.is_set():
                with httpx.Client(**options) as client:
                    answer = client.post("/api/v1/auth/login", json={"email": EMAIL, "password": "password"},
                                         headers={"Host": "demo.localhost"})
                    if answer.status_code == 503:
                        time.sleep(0.1)
                        continue
                    token = answer.json()["token"]
                    self.kid = jwt.get_unverified_header(token)["kid"]
                    self.kids.add(self.kid)
                self.renew.clear()
                for _ in range(10):
                    if self.renew.is_set() or self.stop.is_set():
                        break
                    self.one(kept, token)
                    with httpx.Client(**options) as client:
                        self.one(client, token)


def pair(shop, name, *command):
    private, public = shop.folder / "secrets" / f"{name}.pem", shop.folder / "secrets" / f"{name}.pub"
    subprocess.run(["openssl", *command, "-out", private], check=True, capture_output=True)
    private.chmod(0o400)
    subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True, capture_output=True)
    return private, public


def test_rotation_under_load(shop):
    """Add the key, move "sign" to it, drop the old one; twice, from HS256 by ES256 to RS256."""
    shop.rows("SELECT domain.user_put(1, %s, %s, 'Rotation')", EMAIL, CHEAP)
    es, es_public = pair(shop, "r-es", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
    rs, rs_public = pair(shop, "r-rs", "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048")
    secret = shop.folder / "secrets" / "jwt"
    keys = {"k1": ("HS256", secret, secret), "es": ("ES256", es, es_public), "rs": ("RS256", rs, rs_public)}

    def reload(signing, *verifying):
        lines = ["commerce_password_cost 10;"]
        for kid in (signing, *verifying):
            alg, private, public = keys[kid]
            lines.append(f"commerce_jwt_key {kid} {alg} {private} sign;" if kid == signing
                         else f"commerce_jwt_key {kid} {alg} {public};")
        shop.configure(http="\n".join(lines), server=GUARDED, replace=[(r"commerce_jwt_key .*;", "")])
        shop.reload()

    reload("k1")
    crowd = [Load(shop, f"load{i}") for i in range(3)]
    for thread in crowd:
        thread.start()

    def everybody_has(kid):
        for thread in crowd:
            thread.renew.set()
        return all(thread.kid == kid for thread in crowd)

    try:
        wait_for(lambda: everybody_has("k1"), 60, "all have tokens of the first key")
        for old, new in (("k1", "es"), ("es", "rs")):
            reload(old, new)
            time.sleep(0.2)         # some traffic, any amount is right
            reload(new, old)
            wait_for(lambda new=new: everybody_has(new), 60, f"all have tokens of {new}")
            reload(new)
        shared = shop.edge(tenant="demo")
        assert {key["kid"] for key in shared.get("/.well-known/jwks.json").json()["keys"]} == {"rs"}
    finally:
        for thread in crowd:
            thread.stop.set()
        for thread in crowd:
            thread.join()

    for thread in crowd:
        assert not thread.bad, thread.bad[:3]
        assert thread.kids == {"k1", "es", "rs"}
        assert thread.good
    # and the dropped one is gone
    assert shop.edge(tenant="demo", token=shop.token("0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b")).get("/guarded").status_code == 401


# ---- what the page shows ----


def examples():
    """The examples of docs/directives/auth.md, by the name in the comment before each."""
    page = (ROOT / "docs/directives/auth.md").read_text()
    return {name: re.sub(r"^ {4}", "", text, flags=re.M)
            for name, text in re.findall(r"<!-- example: (\w+) -->\n\n((?: {4}.*\n|\n)+)", page)}


@pytest.fixture
def documented(shop, tmp_path):
    """nginx with the page's own text; only files, ports and the network of the office are this machine's."""
    found = examples()
    private, _ = pair(shop, "doc-new", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
    _, public = pair(shop, "doc-old", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
    files = shop.folder / "doc-files" / "invoices"
    files.mkdir(parents=True)
    (files / "1.txt").write_text("invoice")
    server = found["server"]
    here = {"/etc/nginx/keys/2026-11.pem": private, "/etc/nginx/keys/2026-05.pub": public, "conf/identity.conf": shop.conf / "identity.conf",
            "/srv/shop": files.parent, "http://127.0.0.1:8080": "http://127.0.0.1:@port@/echo", "10.0.0.0/8": "127.0.0.3"}
    http = found["http"]
    for name, value in here.items():
        assert name in http + server, f"the page does not show {name} any more"
        http, server = http.replace(name, str(value)), server.replace(name, str(value))
    server = server.replace("@port@", str(shop.port)) + """
        location /echo { commerce_auth off; add_header X-User $http_x_commerce_user always;
                         add_header X-Token "$http_authorization" always; return 200 "$http_x_commerce_roles"; }"""
    # the page's set of keys stands at the address that conf/server.conf has it at
    server = re.sub(r"location = /\.well-known/jwks\.json \{\s+commerce_jwks;\s+\}", "", server)
    with shop.configured(http=http, server=server, replace=[(r"commerce_jwt_key .*;", ""), (r"commerce_jwt_issuer .*;", "")]):
        yield shop, private.read_text()


def test_the_examples_of_the_page(documented):
    shop, key = documented

    def ask(path, *roles, local="127.0.0.1", tenant="demo", **claims):
        headers = {"Host": f"{tenant}.localhost", "X-Commerce-User": "forged", "X-Commerce-Roles": "owner"}
        if roles:
            token = jwt.decode(shop.token("0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b", roles, iss="shop.example.com", **claims),
                               options={"verify_signature": False})
            headers["Authorization"] = "Bearer " + jwt.encode(token, key, "ES256", headers={"kid": "2026-11", "typ": "at+jwt"})
        with httpx.Client(transport=httpx.HTTPTransport(local_address=local, verify=False), base_url=shop.url) as client:
            return client.get(path, headers=headers)

    keys = ask("/.well-known/jwks.json").json()["keys"]
    assert [k["kid"] for k in keys] == ["2026-11", "2026-05"]

    assert ask("/backoffice/").status_code == 401
    assert ask("/backoffice/", "staff").status_code == 403
    assert ask("/backoffice/", "customer", "orders.read").status_code == 403
    answer = ask("/backoffice/", "staff", "orders.read")
    assert (answer.status_code, answer.text) == (200, "staff")
    assert answer.headers["x-user"].startswith("0190a1b2") and "x-token" not in answer.headers
    assert ask("/backoffice/", "owner").status_code == 200
    assert ask("/backoffice/", "owner", tenant="acme").status_code == 403

    answer = ask("/reviews/")
    assert (answer.status_code, answer.text) == (200, "") and "x-user" not in answer.headers
    assert ask("/reviews/", "customer").text == "customer"

    assert ask("/invoices/1.txt").status_code == 401
    assert ask("/invoices/1.txt", "customer").text == "invoice"
    assert ask("/invoices/1.txt", local="127.0.0.3").text == "invoice"

    assert ask("/reports/").status_code == 401
    assert ask("/reports/", "staff").status_code == 403
    assert ask("/reports/", "staff", department="sales").status_code == 200
    assert ask("/reports/", "staff", department="finance-eu").status_code == 200
    assert ask("/reports/", "customer", department="sales").status_code == 403
