"""Tables of many shops, and of a large one, in memory that is bounded: the zone as calculated, and nothing beside it.

Small numbers by default. COMMERCE_SCALE=full takes 1,000 shops of 1,000 products and one of 1,000,000, and COMMERCE_TEST_ARGS=-s
shows the figures:

    COMMERCE_SCALE=full COMMERCE_TEST_ARGS=-s scripts/test scale
"""

import os
import pathlib
import random
import re
import struct
import subprocess
import time

import httpx

from stack import ROOT, wait_for

FULL = os.environ.get("COMMERCE_SCALE") == "full"
SHOPS, PRODUCTS, LARGE = (1000, 1000, 1_000_000) if FULL else (60, 200, 20_000)
BYTES = 376             # a product, as recs/README.md has it
ABOUT, HEADER, ENTRY = 1, 64, 24


def crc32c(data, crc=0):
    crc ^= 0xffffffff
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82f63b78 if crc & 1 else 0)
    return crc ^ 0xffffffff


def told(*words):
    print(" ", *words)


class Table:
    """A table made by commerce-train, which may be given to any shop: its first section says whose it is."""

    def __init__(self, folder, products):
        rng, now = random.Random(products), int(time.time())
        self.products = products
        with open(folder / "events.tsv", "w", encoding="ascii") as out:
            # each product twice, by customers who stay in a part of the shop
            for user in range(products // 4):
                part = user * 4 % products
                out.writelines(f"{user}\t{1 + (part + rng.randrange(40)) % products}\t{now - rng.randrange(40 * 86400)}\tpurchase\n"
                               for _ in range(4))
                out.writelines(f"{user}\t{part + i + 1}\t{now - rng.randrange(40 * 86400)}\tview\n" for i in range(4))
        self.path = folder / "table.sim"
        began = time.monotonic()
        subprocess.run([ROOT / "objs/commerce-train", "fit", "--train", folder / "events.tsv", "--out", self.path, "--no-evaluate",
                        "--quiet"], check=True)
        told(f"{products:,} products: fit in {time.monotonic() - began:.1f} s, {self.path.stat().st_size / 1e6:.1f} MB, "
             f"{self.path.stat().st_size / products:.0f} bytes a product")

    def of(self, tenant, generation):
        data = bytearray(self.path.read_bytes())
        sections = struct.unpack_from("<I", data, 20)[0]
        for at in range(HEADER, HEADER + ENTRY * sections, ENTRY):
            number, _, offset, size = struct.unpack_from("<IIQQ", data, at)
            if number == ABOUT:
                struct.pack_into("<QQ", data, offset, tenant, generation)
                struct.pack_into("<I", data, at + 4, crc32c(data[offset:offset + size]))
        struct.pack_into("<I", data, 60, 0)
        struct.pack_into("<I", data, 60, crc32c(data[:HEADER + ENTRY * sections]))
        return data

    def put(self, folder, tenant, generation):
        temporary = folder / f".{tenant}.new"
        temporary.write_bytes(self.of(tenant, generation))
        # an older time: nothing is taken for half-written
        os.utime(temporary, (time.time() - 5, time.time() - 5 + generation / 1e3))
        temporary.rename(folder / f"{tenant}.sim")


def memory(shop, kind):
    """kB of all workers."""
    return [int(re.search(rf"{kind}:\s+(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text())[1]) for pid in shop.workers()]


def zone(megabytes):
    return {"replace": [(r"commerce_similarity_zone\s+tables:64m", f"commerce_similarity_zone tables:{megabytes}m")]}


def loaded(shop):
    return httpx.get(f"{shop.url}/health", timeout=60).json()["recommendations"]["tables"]


def status(shop, tenant):
    with shop.edge(tenant=tenant) as edge:
        return edge.get("/api/v1/recommendations/status").json()


def test_many_shops(shop, tmp_path):
    with shop.db() as db:
        rows = db.execute("INSERT INTO shop.tenant (slug, name) SELECT 'scale-' || i, 'Scale' FROM generate_series(1, %s::int) i "
                          "RETURNING id, slug", [SHOPS]).fetchall()
    table = Table(tmp_path, PRODUCTS)
    size = -(-table.path.stat().st_size // 4096) * 4096
    # every shop's table, room for a few that replace others, 1 % for the zone's own books
    megabytes = int(((SHOPS + 40) * size * 1.01 + (1 << 20)) / (1 << 20)) + 1
    assert SHOPS * PRODUCTS * BYTES < megabytes << 20, "as calculated, or less"
    with shop.configured(**zone(megabytes)):
        before = sum(memory(shop, "RssAnon"))
        for generation in (1, 2):
            began = time.monotonic()
            for row in rows:
                table.put(shop.folder / "tables", row["id"], generation * 1_000_000 + row["id"])
            written = time.monotonic() - began
            wait_for(lambda: loaded(shop) == SHOPS, 300, "all tables are loaded")
            asked = rows if not FULL else rows[::50] + rows[-1:]
            for row in asked:
                wait_for(lambda row=row, generation=generation:
                         status(shop, row["slug"]).get("generation") == generation * 1_000_000 + row["id"], 300,
                         f"the table of {row['slug']}, generation {generation}")
                assert status(shop, row["slug"])["products"] == PRODUCTS
            told(f"{SHOPS:,} shops of {PRODUCTS:,}: zone of {megabytes} MB, generation {generation} written in {written:.1f} s, "
                 f"served {time.monotonic() - began - written:.1f} s later; workers' own memory {memory(shop, 'RssAnon')} kB, "
                 f"shared {memory(shop, 'RssShmem')} kB")
        # tables are in the zone and nowhere else: what a worker keeps of its own does not grow with the shops' number
        assert sum(memory(shop, "RssAnon")) - before < 16 << 10
        assert max(memory(shop, "RssShmem")) < (megabytes << 10) + (200 << 10)
        assert status(shop, "demo")["status"] == "not_trained"
    for row in rows:
        (shop.folder / "tables" / f"{row['id']}.sim").unlink()


def test_a_large_shop(shop, tmp_path):
    """Two generations beside each other, as a swap needs it; then one that is too large says so and the last one goes on."""
    table = Table(tmp_path, LARGE)
    size = table.path.stat().st_size
    megabytes = int(2 * size * 1.02 / (1 << 20)) + 2
    with shop.configured(**zone(megabytes)):
        before = sum(memory(shop, "RssAnon"))
        for generation in (1, 2, 3):
            table.put(shop.folder / "tables", 1, generation)
            began = time.monotonic()
            wait_for(lambda generation=generation: status(shop, "demo").get("generation") == generation, 120, "the table is served")
            told(f"{LARGE:,} products: generation {generation} served after {time.monotonic() - began:.1f} s in a zone of {megabytes} MB; "
                 f"workers' own memory {memory(shop, 'RssAnon')} kB, shared {memory(shop, 'RssShmem')} kB")
        assert status(shop, "demo")["products"] == LARGE
        with shop.edge() as edge:
            answer = edge.get("/api/v1/products/1/similar", params={"limit": 40})
            assert answer.status_code == 200 and answer.json()["model"]["generation"] == 3
        assert sum(memory(shop, "RssAnon")) - before < 16 << 10
    with shop.configured(**zone(max(4, int(size * 0.9 / (1 << 20))))):
        wait_for(lambda: any("is too small for" in line and "raise the size to" in line for line in shop.log_lines()), 60,
                 "the log says what the zone needs")
        assert status(shop, "demo")["status"] == "not_trained"
    (shop.folder / "tables/1.sim").unlink()
