"""scripts/up and scripts/down, as an operator and the Dockerfile use them: a shop of its own, out of a tree that is built."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import uuid

import httpx
import pytest

from stack import MODE, PATIENT, ROOT, free_ports, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.skipif(MODE == "asan", reason="nothing of the module that others do not show")]


class Machine:
    """What the last stage of the Dockerfile holds, and a folder for what runs."""

    def __init__(self, folder, objs):
        folder.chmod(0o755)
        self.tree, self.run = folder / "tree", folder / "run"
        for name in ("conf", "demo", "ngx_commerce_module", "scripts", "sql", "api", "trainer"):
            shutil.copytree(ROOT / name, self.tree / name)
        # deadlines are tests of their own: beside others a checkout may take longer than the seconds that a shop gives it
        conf = self.tree / "conf" / "nginx.conf"
        text = conf.read_text()
        for line, timeouts in PATIENT:
            text, count = re.subn(line, lambda m, t=timeouts: m[0].replace(m[1], t), text)
            assert count == 1, f"conf/nginx.conf has nothing like {line}"
        conf.write_text(text)
        (self.tree / "objs").mkdir()
        for name in ("ngx_http_commerce_module.so", "commerce-train", "openapi.json"):
            shutil.copy2(objs / name, self.tree / "objs")
        self.port, = free_ports(1)
        self.environment = {**os.environ, "COMMERCE_RUN": str(self.run)}

    def command(self, *line, **options):
        return subprocess.run([str(word) for word in line], cwd=self.tree, env=self.environment, capture_output=True, text=True,
                              stdin=subprocess.DEVNULL, timeout=600, check=False, **options)

    def up(self):
        return self.command("scripts/up", "--prebuilt", "--port", self.port)

    def client(self):
        return httpx.Client(base_url=f"http://127.0.0.1:{self.port}/api", timeout=60)

    def alive(self):
        """Command lines of processes that have to do with the folder."""
        lines = []
        for process in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
            try:
                line = process.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if f"{self.run}/" in line:
                lines.append(line)
        return lines


@pytest.fixture(scope="module")
def machine(shop):
    folder = pathlib.Path(tempfile.mkdtemp(prefix="nginx-commerce-test.", dir="/tmp"))
    machine = Machine(folder, pathlib.Path(shop.objs))
    try:
        yield machine
    finally:
        machine.command("scripts/down", "--wipe")
        shutil.rmtree(folder)


def steps(text):
    """What each step of the table remarked."""
    return dict(re.findall(r"^(\w+) +\d+\.\d s   (.+)$", text, re.M))


def test_the_container_s_command(machine, tmp_path):
    """A shop in the foreground that is told healthy while it runs; the purchase of the README; SIGTERM ends all of it."""
    dockerfile = (ROOT / "Dockerfile").read_text()
    line = json.loads(re.search(r"^CMD (\[.+\])$", dockerfile, re.M)[1])
    check = json.loads(re.search(r"^HEALTHCHECK (?:--\S+ )+CMD (\[.+\])$", dockerfile, re.M)[1])
    check = [word.replace(":8080/", f":{machine.port}/") for word in check]
    assert f":{machine.port}/" in check[-1] and check[0] in (ROOT / "scripts/packages/run.txt").read_text().splitlines()
    assert machine.command(*check).returncode != 0, "nothing is there yet"
    line = [{"0.0.0.0": "127.0.0.1", "8080": str(machine.port)}.get(word, word) for word in line]
    said = tmp_path / "said"
    with said.open("w") as out, subprocess.Popen(line, cwd=machine.tree, env=machine.environment, stdin=subprocess.DEVNULL,
                                                 stdout=out, stderr=out) as shell:
        try:
            wait_for(lambda: "The shop is up after" in said.read_text() or shell.poll() is not None, 600, "the shop")
            table = steps(said.read_text())
            assert list(table) == ["PostgreSQL", "Redis", "Mail", "Migrations", "Accounts", "Sentiment", "nginx", "Catalogue",
                                   "Purchase", "Training"], said.read_text()
            assert machine.command(*check).returncode == 0
            assert table["nginx"] == "started" and re.match(r"order \w{8}, ", table["Purchase"])
            with machine.client() as customer:
                answer = customer.post("/login", json={"email": "test@example.com", "password": "password"})
                customer.headers["Authorization"] = f"Bearer {answer.json()['token']}"
                seen = customer.post("/interactions", json={"product_id": 1, "action": "view"})
                assert seen.status_code == 202, seen.text
                numbers = []
                for headers in ({}, {"Idempotency-Key": str(uuid.uuid4())}):
                    assert customer.post("/cart/items", json={"product_id": 1, "quantity": 2}).status_code == 201
                    for again in range(1 + len(headers)):
                        order = customer.post("/checkout", json={}, headers=headers)
                        assert order.status_code == 201 and order.headers.get("idempotent-replayed") == ("true" if again else None)
                        numbers.append(order.json()["number"])
                assert numbers[1] == numbers[2] != numbers[0]
                listed = [order["number"] for order in customer.get("/orders").json()["data"]]
                assert listed[:2] == [numbers[1], numbers[0]]
            exports = machine.command("scripts/env").stdout
            for name in ("URL", "PGURL", "REDIS", "EMAIL", "PASSWORD", "STAFF_EMAIL", "STAFF_PASSWORD"):
                assert re.search(rf"^export COMMERCE_{name}=\S+$", exports, re.M), name
        finally:
            shell.terminate()
        assert shell.wait(120) == 0
    wait_for(lambda: not machine.alive(), 60, "nothing runs")
    assert machine.command(*check).returncode != 0


def test_again_it_goes_on_with_its_data(machine):
    """Another run starts what is down, one more finds all of it; a step that fails tells why; --wipe forgets."""
    def orders():
        done = machine.command("bash", "-c", 'eval "$(scripts/env)"; psql -X -Atc "SELECT count(*) FROM shop.orders" "$COMMERCE_PGURL"')
        return int(done.stdout)

    bought = None
    for nginx in ("started", "started", "runs already"):
        done = machine.up()
        table = steps(done.stdout)
        assert done.returncode == 0 and table["nginx"] == nginx, done.stdout + done.stderr
        assert table["Purchase"] == "made already; GET /api/v1/products answers 200" and table["Training"] == "trained already"
        with machine.client() as customer:
            token = customer.post("/login", json={"email": "test@example.com", "password": "password"}).json()["token"]
            customer.headers["Authorization"] = f"Bearer {token}"
            if bought is None:
                bought = orders()
                assert customer.post("/cart/items", json={"product_id": 2, "quantity": 3}).status_code == 201
                assert bought == 3
                assert machine.command("scripts/down").returncode == 0
            else:
                assert orders() == bought, "with what was bought before, and nothing else"
                assert [(line["product_id"], line["quantity"]) for line in customer.get("/cart").json()["items"]] == [(2, 3)], "nor the cart"

    broken = machine.tree / "sql/api/zz_broken.sql"
    for text, place in (("CREATE FUNCTIONS api.broken();", "zz_broken.sql:1: ERROR:  syntax error"),
                        ("CREATE FUNCTION api.broken() RETURNS api.reply LANGUAGE plpgsql AS $$ BEGIN RETURN what ever it is; END $$;",
                         "api.broken(): syntax error")):
        broken.write_text(text + "\n")
        refused = machine.up()
        said = refused.stdout + refused.stderr
        assert refused.returncode == 1 and re.search(r"^Migrations +failed$", said, re.M) and place in said, said
        assert f"Again: scripts/up --prebuilt --port {machine.port}\n" in said and "/logs/migrations.log:" in said, said
    with machine.client() as anyone:
        assert anyone.get("/v1/products/1").status_code == 200, "what ran goes on"
    broken.unlink()

    down = machine.command("scripts/down")
    assert down.returncode == 0 and machine.run.exists()
    wait_for(lambda: not machine.alive(), 60, "nothing runs")
    log = (machine.run / "logs/error.log").read_text(errors="replace")
    assert not re.search(r"\[(alert|emerg|crit)\]", log), log
    with pytest.raises(httpx.ConnectError), machine.client() as anyone:
        anyone.get("/v1/products/1")
    assert machine.command("scripts/down", "--wipe").returncode == 0 and not machine.run.exists()
