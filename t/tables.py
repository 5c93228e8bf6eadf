"""Tables of recommendations, trained and published as an operator does it."""

import os
import pathlib
import random
import subprocess
import time
import uuid

from stack import ROOT, TENANTS, wait_for

TRAIN = ROOT / "objs" / "commerce-train"
GROUPS = 6          # of products that the same customers buy


def catalogue(shop):
    """What tenant demo has for sale."""
    with shop.db() as db:
        return [dict(row) for row in db.execute(
            "SELECT p.id, p.name, coalesce(c.slug, '') AS category, p.category_id FROM shop.product p "
            "LEFT JOIN shop.category c ON c.tenant_id = p.tenant_id AND c.id = p.category_id "
            "WHERE p.tenant_id = 1 AND p.deleted_at IS NULL ORDER BY p.id")]


def group(product):
    return product["id"] % GROUPS


class Tables:
    """Trains and publishes as an operator does."""

    def __init__(self, shop, products):
        self.shop, self.products, self.generation = shop, products, 0
        self.folder = shop.folder / "tables"

    def train(self, tenant=1, leave_out=(), texts=True, generation=None, favourite=None):
        """A table by customers who each buy in one group; favourite: everybody has this product too."""
        self.generation = generation or self.generation + 1
        rng, now = random.Random(7), int(time.time())
        members = [[p for p in self.products if group(p) == g and p["id"] not in leave_out] for g in range(GROUPS)]
        work = self.shop.folder / f"train.{self.generation}"
        work.mkdir(exist_ok=True)
        with (work / "events.tsv").open("w") as f:
            for user in range(600):
                for product in rng.sample(members[user % GROUPS], min(5, len(members[user % GROUPS]))):
                    f.write(f"u{user}\t{product['id']}\t{now - rng.randrange(40 * 86400)}\tpurchase\n")
                if favourite:
                    f.write(f"u{user}\t{favourite}\t{now - rng.randrange(86400)}\tpurchase\n")
        arguments = ["--train", work / "events.tsv", "--out", work / "table.sim", "--tenant", tenant, "--no-evaluate",
                     "--generation", self.generation, "--quiet"]
        if texts:
            with (work / "items.tsv").open("w") as f:
                for p in self.products:
                    f.write(f"{p['id']}\t{p['name']} {p['category']}\t{p['category_id'] or ''}\n")
            arguments += ["--items", work / "items.tsv"]
        subprocess.run([TRAIN, "fit", *map(str, arguments)], check=True, capture_output=True)
        return work / "table.sim"

    def put(self, data, tenant=1):
        """By rename(), an older time so that nothing is taken for half-written."""
        temporary = self.folder / f".{tenant}.new"
        temporary.write_bytes(data if isinstance(data, bytes) else pathlib.Path(data).read_bytes())
        os.utime(temporary, (time.time() - 5, time.time() - 5 + random.random()))
        temporary.rename(self.folder / f"{tenant}.sim")

    def shown(self, generation, tenant="demo"):
        wait_for(lambda: status(self.shop, tenant).get("generation") == generation, 20, f"generation {generation} is shown")

    def publish(self, **options):
        self.put(self.train(**options), options.get("tenant", 1))
        self.shown(self.generation)
        return self.generation


def status(shop, tenant="demo"):
    with shop.edge(tenant=tenant) as edge:
        return edge.get("/api/v1/recommendations/status").json()


# ---- what is asked of them ----

def listed(client, path="/api/v1/recommendations", **params):
    answer = client.get(path, params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


def ids(cards):
    return [card["id"] for card in cards]


def newcomer(shop, tenant="demo"):
    """A customer who has done nothing yet."""
    email = f"newcomer-{uuid.uuid4().hex[:12]}@example.com"
    shop.rows("SELECT domain.user_put(%s::bigint, %s, '', 'Newcomer')", TENANTS[tenant], email)
    return shop.user(email, tenant)


def sold_by_acme(shop):
    """Two products of the other shop, which has nothing at first."""
    staff = shop.staff("acme")
    while len(sold := ids(staff.get("/api/v1/products").json()["data"])) < 2:
        made = staff.post("/api/v1/products", json={"name": f"Anvil {len(sold)}", "price": {"amount": 100, "currency": "EUR"},
                                                    "stock": 5, "status": "active"})
        assert made.status_code == 201, made.text
    return sold
