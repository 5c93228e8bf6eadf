"""1,000 checkouts while something goes wrong: what TESTING asks for, as a program and for t/test_torture.py."""

import argparse
import asyncio
import collections
import dataclasses
import itertools
import json
import pathlib
import random
import sys
import tempfile
import time

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parent), str(pathlib.Path(__file__).resolve().parents[1])]

import broker           # noqa: E402
import buyers as b      # noqa: E402
import checks as c      # noqa: E402
import faults as f      # noqa: E402
import mails            # noqa: E402
import payments as pay  # noqa: E402
import stack as s       # noqa: E402

TENANTS = ["demo", "acme", "globex"]
HOOKED = "acme"         # has a webhook for all of its events
SKUS, HOT, HOT_STOCK, STOCK = 20, 2, 5, 100000


@dataclasses.dataclass
class Report:
    fault: str
    hits: int = 0
    checkouts: int = 0
    orders: int = 0
    cards: int = 0                  # of them, paid at the provider
    events: int = 0                 # of these orders
    mails: int = 0                  # confirmations of these orders that came, by Message-ID
    mails_again: int = 0            # those that came more than once
    records: int = 0                # of the events, in the broker's topics
    records_again: int = 0          # those that stand there more than once
    late: int = 0                   # orders of requests whose buyer had given up, see checks.came_late
    refused: int = 0                # definite refusals: sold out, cart ordered by the other tab, ...
    tries: int = 0
    failed_tries: int = 0
    recovered_ms: int = 0           # from the end of the fault to readiness
    after: int = 0                  # requests begun after that
    after_first: int = 0            # of them, answered definitely at once
    p50_ms: float = 0
    p99_ms: float = 0
    seconds: float = 0
    faults: list = dataclasses.field(default_factory=list)
    purchases: list = dataclasses.field(default_factory=list, repr=False)
    began: object = None


class World:
    """Three tenants with the same slugs: 20 products each, of which two are nearly sold out, and 50 customers over all.

    double: the provider of payments, connected.  reports: of the runs, in their order.
    """

    def __init__(self, shop, double, people=50):
        self.shop, self.reports = shop, []
        shop.tenant_ids, shop.double, shop.postman = s.TENANTS, double, mails.Postman(shop)
        self.configured("SET synchronous_commit = on")      # a stop at once must lose nothing
        with shop.db() as db:
            db.execute(c.WITNESS)
        with shop.staff(HOOKED) as staff:
            # nothing is sent there, its job is off: there is one delivery for each event
            made = staff.post("/api/v1/admin/webhooks", json={"url": "https://example.com/torture", "types": ["*"]})
            assert made.status_code == 201, made.text
        self.products = {tenant: [self.product(tenant, i) for i in range(SKUS)] for tenant in TENANTS}
        self.people = []
        for n, tenant in enumerate(TENANTS):
            share = people // len(TENANTS) + (n < people % len(TENANTS))
            self.people += [(tenant, user, token) for user, token in self.customers(share, tenant)]

    def configured(self, change):
        with self.shop.db() as db:
            db.execute(f"ALTER SYSTEM {change}")
            db.execute("SELECT pg_reload_conf()")

    def end(self):
        """What outlives the shop is as it was."""
        self.shop.postman.stop()
        self.shop.double.stop()
        self.configured("RESET synchronous_commit")

    def product(self, tenant, i):
        hot = i < HOT
        slug = f"{c.LIMITED if hot else 'torture'}-{i}"
        with self.shop.staff(tenant) as staff:
            currency = self.shop.value("SELECT currency FROM shop.tenant WHERE slug = %s", tenant)
            made = staff.post("/api/v1/products", json={
                "name": f"Torture {i}", "slug": slug, "sku": f"TORTURE-{i}", "price": {"amount": 1099 + 100 * i, "currency": currency},
                "stock": HOT_STOCK if hot else STOCK})
            assert made.status_code == 201, made.text
            return made.json()["id"]

    def customers(self, count, tenant):
        rows = self.shop.rows(
            "SELECT domain.user_put(%s::bigint, 'torture' || i || '@example.com', '', 'Buyer ' || i)::text AS id "
            "FROM generate_series(1, %s::int) i ORDER BY i", s.TENANTS[tenant], count)
        now = int(time.time())
        return [(r["id"], self.shop.token(r["id"], tenant_id=s.TENANTS[tenant], exp=now + 7200)) for r in rows]

    def refill(self):
        """The products that run out have their few pieces again."""
        for tenant in TENANTS:
            with self.shop.staff(tenant) as staff:
                for product in self.products[tenant][:HOT]:
                    have = self.shop.value("SELECT on_hand - reserved AS free FROM shop.stock WHERE tenant_id = %s AND product_id = %s",
                                           s.TENANTS[tenant], product)
                    if have < HOT_STOCK:
                        changed = staff.patch(f"/api/v1/inventory/{product}", json={"delta": HOT_STOCK - have})
                        assert changed.status_code == 200, changed.text

    def buyers(self, plan, seed):
        return [b.Buyer(self.shop.url, tenant, user, token, self.products[tenant], ("manual", "stripe"), pay.CARDS, self.shop.double.customer,
                        random.Random(f"{seed} {user} {len(self.reports)} {plan.pause}"), plan)
                for tenant, user, token in self.people]


def set_up(shop, kafka=False):
    """The provider, nginx that knows it, and who buys.  kafka: events go through a broker."""
    double = pay.Double(shop, TENANTS)
    shop.broker = None
    try:
        configuration = {"limits": None, "http": double.connect()}
        if kafka:
            shop.broker = broker.Broker.beside(shop, **configuration)
        else:
            shop.configure(**configuration)
            shop.stop("nginx")
            shop.start()
        return World(shop, double)
    except BaseException:
        double.stop()
        raise


async def under(world, report, checkouts, pause, seed, hits, within):
    """All purchases of a run: most of them under the fault, the rest after it."""
    _, inject, every, _ = f.FAULTS[report.fault]
    shop = world.shop
    began = time.monotonic()
    stop = f.Stop()
    beside = asyncio.ensure_future(inject(shop, stop, every))

    crowd = world.buyers(b.Plan(checkouts * 8 // 10, pause, lambda: stop.hits >= hits), seed)
    await b.crowd(crowd)
    stop.set()
    await beside
    report.hits = stop.hits
    ended = time.monotonic()
    await asyncio.get_running_loop().run_in_executor(None, shop.ready, 60)
    report.recovered_ms = round((time.monotonic() - ended) * 1000)

    # what is asked now is answered at once, which on a slow machine takes its time
    later = world.buyers(b.Plan(checkouts - checkouts * 8 // 10, pause, patience=b.PATIENCE * within / 10), f"{seed} after")
    await b.crowd(later)
    report.seconds = round(time.monotonic() - began, 1)

    after = [p for buyer in later for p in buyer.purchases]
    report.purchases = [p for buyer in crowd for p in buyer.purchases] + after
    count(report, report.purchases, after)
    report.faults += [e for buyer in [*crowd, *later] for e in buyer.errors]


def count(report, purchases, after):
    waits = sorted(t.seconds for p in purchases for t in p.tries if t.status)
    report.checkouts = len(purchases)
    report.orders = len(set().union(*(p.orders for p in purchases)))
    report.refused = sum(p.status >= 400 for p in purchases)
    report.tries = sum(len(p.tries) for p in purchases)
    report.failed_tries = sum(t.status in (0, *b.RETRIED) for p in purchases for t in p.tries)
    report.after = sum(bool(p.tries) for p in after)
    report.after_first = sum(bool(p.tries) and p.tries[0].status not in (0, *b.RETRIED) for p in after)
    if waits:
        report.p50_ms = round(waits[len(waits) // 2] * 1000, 1)
        report.p99_ms = round(waits[len(waits) * 99 // 100] * 1000, 1)


def run(world, fault, checkouts=1000, pause=0.3, seed=1, hits=3, within=10):
    """One fault, at least so many times.  The report's faults are empty when the shop was there for its buyers, again within so many seconds
    after the fault; its books come later."""
    world.refill()
    report = Report(fault, began=world.shop.value("SELECT now()"))
    asyncio.run(under(world, report, checkouts, pause, seed, hits, within))
    if report.after_first < report.after * 0.999:
        report.faults.append(f"after the fault only {report.after_first} of {report.after} requests were answered at once")
    if report.recovered_ms > within * 1000:
        report.faults.append(f"it took {report.recovered_ms} ms to be ready again")
    world.reports.append(report)
    return report


def audit(world):
    """The books of all runs, when what was on its way has arrived.  Adds to the reports' faults and returns those of the shop as a whole."""
    shop = world.shop
    faults = c.settle(shop)
    came = shop.postman.mails()
    shop.topics = shop.broker and [r for topic in shop.value("SELECT domain.event_topics()") for r in shop.broker.everything(topic)]
    if shop.broker:
        tell(shop.broker.short)
    for report, after in itertools.zip_longest(world.reports, world.reports[1:]):
        shop.began, shop.ended = report.began, after and after.began
        for check in c.CHECKS:
            report.faults += [f"{check.__name__}: {fault}" for fault in check(shop, report.purchases)]
        figures(shop, report, came)
    for check in c.BOOKS:
        faults += [f"{check.__name__}: {fault}" for fault in check(shop)]
    return faults


def figures(shop, report, came):
    orders = list(c.books(shop, report.purchases))
    report.late = len(c.came_late(shop, report.purchases))
    report.cards = shop.value("SELECT count(*) FROM shop.payment WHERE method = 'stripe' AND status = 'captured' AND order_id::text = ANY (%s)",
                              orders)
    report.events = shop.value("SELECT count(*) FROM event.outbox WHERE aggregate = 'order' AND aggregate_id = ANY (%s)", orders)
    times = [came[f"<{r['message_id']}>"][1] for r in shop.rows(
        "SELECT message_id FROM shop.notification WHERE template = 'order-confirmation' AND data ->> 'order_id' = ANY (%s)", orders)
        if f"<{r['message_id']}>" in came]
    report.mails, report.mails_again = len(times), sum(n > 1 for n in times)
    if shop.topics:
        stood = collections.Counter(r["headers"]["ce_id"] for r in shop.topics if r["headers"]["ce_subject"] in orders)
        report.records, report.records_again = len(stood), sum(n > 1 for n in stood.values())


# ---- the program ----


def options():
    parser = argparse.ArgumentParser(
        prog="scripts/torture", formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Orders from many customers of three tenants while something goes wrong, on a private stack, and says what was "
                    "lost, made twice or does not add up.",
        epilog="examples:\n  scripts/torture                        every fault, 1,000 checkouts each\n"
               "  scripts/torture --checkouts 200 reload postgres\n\nfaults:\n"
               + "\n".join(f"  {name:14} {text}" for name, (text, *_) in f.FAULTS.items())
               + "\n\nexit codes: 0 everything held, 1 something did not, 2 wrong usage")
    parser.add_argument("faults", nargs="*", metavar="FAULT", help="which faults, one after the other (default: all that the stack can)")
    parser.add_argument("--checkouts", type=int, default=1000, metavar="N", help="purchases under each fault (default 1000)")
    parser.add_argument("--pause", type=float, default=0.5, metavar="S", help="mean seconds between two of a customer (default 0.5)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of what is bought (default 1)")
    parser.add_argument("--kafka", action="store_true", help="events go through Apache Kafka, whatever the fault")
    parser.add_argument("--json", action="store_true", help="the reports as JSON on standard output")
    parser.add_argument("--keep", action="store_true", help="leave the stack running")
    wanted = parser.parse_args()
    unknown = [name for name in wanted.faults if name not in f.FAULTS]
    if unknown:
        parser.error(f"no such fault: {', '.join(unknown)}; --help lists them")
    return wanted


def again(count, twice):
    return f"{count}" + (f" ({twice} again)" if twice else "") if count else ""


def table(reports):
    head = ["fault", "times", "checkouts", "orders", "by card", "refused", "late", "failed tries", "ready again ms", "at once after", "p50 ms",
            "p99 ms", "events", "mails", "records", "held"]
    rows = [[r.fault, r.hits if r.fault != "none" else "", r.checkouts, r.orders, r.cards, r.refused, r.late, r.failed_tries, r.recovered_ms,
             f"{r.after_first}/{r.after}", r.p50_ms, r.p99_ms, r.events, again(r.mails, r.mails_again), again(r.records, r.records_again),
             "yes" if not r.faults else "NO"] for r in reports]
    lines = ["| " + " | ".join(str(x) for x in row) + " |" for row in [head, ["---"] * len(head), *rows]]
    return "\n".join(lines)


def tell(faults):
    for fault in faults[:20]:
        print(f"      {fault}", file=sys.stderr, flush=True)


def rounds(wanted):
    """Which faults on which shop: one that hands events over itself, one with a broker."""
    names = wanted.faults or [name for name in f.FAULTS if name != "pay-all"]
    through = [name for name in names if wanted.kafka or f.FAULTS[name][3] == "kafka"]
    return [(kafka, some) for kafka, some in ((False, [n for n in names if n not in through]), (True, through)) if some]


def torture(wanted, kafka, names):
    """These faults at a shop of their own: its reports, and the faults of the shop as a whole."""
    shop = s.Stack(tempfile.mkdtemp(prefix="nginx-commerce-torture."))
    shop.jobs = {"notifications"}
    world = None
    try:
        print(f"building and starting a shop {'and a broker ' if kafka else ''}...", file=sys.stderr)
        shop.build()
        shop.seed()
        world = set_up(shop, kafka)
        for n, name in enumerate(names, 1):
            print(f"[{n}/{len(names)}] {name}: {f.FAULTS[name][0]} ...", file=sys.stderr, flush=True)
            report = run(world, name, wanted.checkouts, wanted.pause, wanted.seed)
            print(f"    {report.orders} orders, {report.failed_tries} failed tries in {report.seconds} s", file=sys.stderr)
            tell(report.faults)
        print("waiting for payments, events and mails, then comparing the books ...", file=sys.stderr, flush=True)
        faults = audit(world)
        faults += [f"error.log: {line}" for line in shop.bad_log_lines()]
        for report in world.reports:
            if report.faults:
                print(f"{report.fault} DID NOT HOLD", file=sys.stderr)
                tell(report.faults)
        tell(faults)
        return world.reports, faults
    finally:
        if world:
            world.end()
        if wanted.keep:
            print(f"kept: {shop.folder}; end it with: scripts/stack --run {shop.folder} wipe", file=sys.stderr)
        else:
            shop.wipe()


def main():
    wanted = options()
    began = time.monotonic()
    reports, faults = [], []
    for kafka, names in rounds(wanted):
        more = torture(wanted, kafka, names)
        reports += more[0]
        faults += more[1]
    kept = [{**dataclasses.asdict(r), "purchases": None, "began": str(r.began)} for r in reports]
    print(json.dumps(kept, indent=2) if wanted.json else table(reports))
    print(f"{sum(r.orders for r in reports)} orders in {time.monotonic() - began:.0f} s", file=sys.stderr)
    return 1 if faults or any(r.faults for r in reports) else 0


if __name__ == "__main__":
    sys.exit(main())
