"""Customers who buy as a good client does: a request without a definite answer is sent again with the same key.

A buyer has one cart, and orders one thing after another.  What was asked and what was answered is kept: the checks compare
it with the shop's books.
"""

import asyncio
import dataclasses
import itertools
import time
import uuid

import httpx

ADDRESSES = itertools.count()
RETRIED = {429, 500, 502, 503, 504}
BUSY = {"busy", "conflict", "in-progress"}          # codes of a 409 that say: again
DEADLINE = 90.0                                     # a buyer gives up after so many seconds
PATIENCE = 5.0                                      # for one answer


@dataclasses.dataclass
class Try:
    """One request and what came of it; status 0: no answer."""
    at: float
    seconds: float
    status: int
    code: str = ""


@dataclasses.dataclass
class Purchase:
    """One key of a buyer, however often it was sent."""
    tenant: str
    user: str
    key: str
    how: str                                        # checkout | order
    lines: dict
    payment: str
    card: str = ""                                  # payment_token of the method stripe
    began: float = 0.0
    tries: list = dataclasses.field(default_factory=list)
    status: int = 0                                 # the definite answer's
    code: str = ""
    orders: set = dataclasses.field(default_factory=set)
    total: int | None = None

    @property
    def definite(self):
        return self.status != 0


class Buyer:
    """payments: methods, of which each purchase has one; cards: tokens for those at a provider; act: does what a bank asks for."""

    def __init__(self, url, tenant, user, token, products, payments, cards, act, rng, plan):
        n = next(ADDRESSES)
        self.tenant, self.user, self.products, self.rng, self.plan = tenant, user, products, rng, plan
        self.payments, self.cards, self.act = payments, cards, act
        self.client = httpx.AsyncClient(
            base_url=url, timeout=plan.patience, headers={"Host": f"{tenant}.localhost", "Authorization": f"Bearer {token}"},
            transport=httpx.AsyncHTTPTransport(local_address=f"127.9.{n // 250}.{1 + n % 250}", verify=False))
        self.purchases = []
        self.errors = []

    async def run(self):
        """Buys until the plan says that it is enough."""
        try:
            while self.plan.take():
                await self.buy()
                await asyncio.sleep(self.rng.expovariate(1.0) * self.plan.pause)
        finally:
            await self.client.aclose()

    async def buy(self):
        lines = {p: self.rng.randint(1, 2) for p in self.rng.sample(self.products, self.rng.randint(1, 3))}
        chance = self.rng.random()
        if chance < 0.5:
            await self.order(lines, 1 if chance > 0.05 else 3)
        else:
            await self.checkout(lines, tabs=2 if chance > 0.95 else 1)

    def purchase(self, how, lines):
        made = Purchase(self.tenant, self.user, str(uuid.UUID(int=self.rng.getrandbits(128), version=4)), how, lines,
                        self.rng.choice(self.payments), began=time.monotonic())
        if made.payment != "manual":
            made.card = self.rng.choice(self.cards)
        self.purchases.append(made)
        return made

    @staticmethod
    def paid_by(p):
        return {"payment_method": p.payment, **({"payment_token": p.card} if p.card else {})}

    async def order(self, lines, clicks):
        """Explicit lines; more clicks than one are sent at the same time with one key."""
        p = self.purchase("order", lines)
        body = {"items": [{"product_id": i, "quantity": q} for i, q in lines.items()], **self.paid_by(p)}
        await asyncio.gather(*(self.settle(p, "/api/v1/orders", body) for _ in range(clicks)))

    async def checkout(self, lines, tabs):
        """Through the cart; two tabs order the same cart with keys of their own."""
        for product, quantity in lines.items():
            added = await self.again("POST", "/api/v1/cart/items", {"product_id": product, "quantity": quantity})
            if added.status_code not in (200, 201, 409, 422):
                self.errors.append(f"cart: {added.status_code} {added.text[:200]}")
        purchases = [self.purchase("checkout", {}) for _ in range(tabs)]
        await asyncio.gather(*(self.settle(p, "/api/v1/checkout", self.paid_by(p)) for p in purchases))
        if any(p.status not in (200, 201, 202) and p.code != "cart-already-ordered" for p in purchases):
            # what cannot be had would be in the way for ever
            await self.again("DELETE", "/api/v1/cart", None)

    async def settle(self, p, path, body):
        """Sends until the answer is definite, and keeps it."""
        answer = await self.again("POST", path, body, p)
        if answer is None:
            return
        data = answer.json() if answer.content else {}
        p.status, p.code = answer.status_code, data.get("code", "")
        if answer.status_code in (200, 201, 202, 402):
            p.orders.add(data.get("id") or data.get("order_id"))
            p.total = (data.get("total") or {}).get("amount")
        # four of five do what their bank wants; the others leave, and their orders are taken back
        if answer.status_code == 202 and (data.get("payment") or {}).get("action") and self.rng.random() < 0.8:
            await asyncio.get_running_loop().run_in_executor(None, self.act, data["payment"]["action"])

    async def again(self, method, path, body, purchase=None):
        headers = {"Idempotency-Key": purchase.key if purchase else str(uuid.UUID(int=self.rng.getrandbits(128), version=4))}
        end = time.monotonic() + DEADLINE
        pause = 0.05
        while time.monotonic() < end:
            began = time.monotonic()
            status, code, answer = 0, "", None
            try:
                answer = await self.client.request(method, path, json=body, headers=headers)
                status = answer.status_code
                if status >= 400:
                    code = answer.json().get("code", "")
            except (httpx.HTTPError, ValueError) as e:
                code = type(e).__name__
            if purchase:
                purchase.tries.append(Try(began, time.monotonic() - began, status, code))
            if status and status not in RETRIED and not (status == 409 and code in BUSY):
                return answer
            await asyncio.sleep(pause * (0.5 + self.rng.random()))
            pause = min(pause * 2, 1.0)
        self.errors.append(f"{method} {path} had no definite answer within {DEADLINE:.0f} s, the last was {status} {code}")
        return None


class Plan:
    """How many purchases all buyers make together, and how long each of them thinks between two.

    enough: they go on until this is true, too.  patience: how many seconds each waits for an answer.
    """

    def __init__(self, count, pause, enough=lambda: True, patience=PATIENCE):
        self.left, self.pause, self.enough, self.patience = count, pause, enough, patience

    def take(self):
        self.left -= 1
        return self.left >= 0 or not self.enough()


async def crowd(buyers):
    await asyncio.gather(*(buyer.run() for buyer in buyers))
