"""The operator's scripts: what they promise beside the happy path of test_smoke."""

import json
import os
import pathlib
import re
import stat
import subprocess

import psycopg
import pytest

from shared import shared
from stack import ROOT

SCRIPTS = sorted(p for p in (ROOT / "scripts").iterdir() if p.is_file() and os.access(p, os.X_OK))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.name)
def test_every_script_explains_itself(script):
    done = subprocess.run([script, "--help"], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=200)
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout


def test_secrets_are_ours_alone(shop):
    secrets = list((shop.folder / "secrets").iterdir())
    assert {"postgres", "edge", "redis", "jwt", "edge-secret"} <= {s.name for s in secrets}
    for secret in secrets:
        if secret.suffix not in (".pem", ".pub"):
            assert stat.S_IMODE(secret.stat().st_mode) == 0o400, secret
            text = secret.read_text()
            for log in (shop.folder / "logs").iterdir():
                assert text not in log.read_text(errors="replace"), log
            assert text not in (shop.folder / "nginx" / "nginx.conf").read_text()


def test_the_edge_role_may_do_nothing_else(shop):
    password = (shop.folder / "secrets" / "edge").read_text()
    with psycopg.connect(host="127.0.0.1", port=shop.pg_port, user="commerce_edge", password=password,
                         dbname=shop.database, autocommit=True) as db:
        for statement in ("SELECT * FROM shop.product", "SELECT domain.tenant_id()", "CREATE TABLE shop.x ()",
                          "CREATE TABLE public.x ()", "CREATE TEMP TABLE x ()", "SET ROLE commerce_owner",
                          "SELECT pg_read_file('/etc/passwd')", "COPY (SELECT 1) TO PROGRAM 'true'"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                db.execute(statement)


def test_the_edge_goes_before_the_backends(shop):
    status = pathlib.Path("/proc/self/status").read_text(encoding="ascii")
    rights = int(re.search(r"CapEff:\s+(\w+)", status)[1], 16)
    if not rights >> 23 & 1:
        pytest.skip("CAP_SYS_NICE is not here to be given")
    master = (shop.folder / "nginx" / "nginx.pid").read_text().strip()
    workers = pathlib.Path(f"/proc/{master}/task/{master}/children").read_text().split()
    assert workers and {os.getpriority(os.PRIO_PROCESS, int(pid)) for pid in [master, *workers]} == {-5}
    # of its session, where the kernel shares the cores between sessions; CAP_SYS_ADMIN: may say it at any time
    session = pathlib.Path(f"/proc/{master}/autogroup")
    if rights >> 21 & 1 and session.exists():
        assert session.read_text().split()[-2:] == ["nice", "-5"]


def test_env_is_for_the_shell(shop):
    done = subprocess.run(["bash", "-c", f'eval "$({ROOT}/scripts/env)"; curl -sfo /dev/null "$COMMERCE_URL/health/live" && '
                           'psql -Atc "SELECT 1" "$COMMERCE_PGURL" && redis-cli --no-auth-warning -u "$COMMERCE_REDIS" ping'],
                          capture_output=True, text=True, env={**os.environ, "COMMERCE_RUN": str(shop.folder)})
    assert done.stdout.split() == ["1", "PONG"], done


def test_a_taken_port_is_named(shop, tmp_path):
    tmp_path.chmod(0o711)
    for parent in list(tmp_path.parents)[:3]:
        if parent != parent.parent and str(parent).startswith("/tmp/"):
            parent.chmod(0o711)
    run = tmp_path / "run"
    shop.run("--run", run, "init", f"PORT={shop.port}", f"OBJS={shop.objs}", "PROFILE=test")
    refused = shop.run("--run", run, "start", "nginx", check=False)
    assert refused.returncode == 1
    assert f"port {shop.port} is taken" in refused.stderr
    assert re.search(r"scripts/up --port \d+", refused.stderr)
    shop.run("--run", run, "wipe")
    assert not run.exists()
    assert shop.edge().get("/health/live").status_code == 200


def test_down_ends_nobody_else(shop, tmp_path):
    """A pid file that names a stranger, as after a reboot: the stranger lives."""
    stranger = subprocess.Popen(["sleep", "60"])
    pid_file = shop.folder / "redis" / "redis.pid"
    before = pid_file.read_text()
    try:
        pid_file.write_text(f"{stranger.pid}\n")
        shop.run("stop", "redis")
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()
        pid_file.write_text(before)
    assert shop.redis().ping()


def test_import_of_csv_lists_what_fails(shop, tmp_path):
    sheet = tmp_path / "goods.csv"
    sheet.write_text('title,price,stock,category,sku,description\n'
                     'Iron Gate,120.50,4,garden,GATE-1,"Heavy, and ""wrought"""\n'
                     'No Price,,1,garden,NONE-1,\n'
                     'Half Cent,1.005,1,garden,HALF-1,\n'
                     'Wooden Gate,80,2,garden,GATE-2,Light\n')
    done = shop.run("--tenant", "acme", sheet, script="scripts/import", check=False)
    assert done.returncode == 3, done
    assert "row 2" in done.stdout and "row 3" in done.stdout
    assert "4 rows: 2 new, 0 changed, 0 unchanged, 2 failed" in done.stdout
    names = shop.rows("SELECT name FROM shop.product WHERE tenant_id = 2 AND deleted_at IS NULL ORDER BY name")
    assert [row["name"] for row in names] == ["Iron Gate", "Wooden Gate"]
    again = shop.run("--tenant", "acme", "--json", sheet, script="scripts/import", check=False)
    report = json.loads(again.stdout)
    assert (report["imported"], report["unchanged"], report["failed"]) == (0, 2, 2)


def test_import_tells_why_nothing_was_imported(shop, tmp_path):
    broken = tmp_path / "broken.json"
    broken.write_text('[{"title": "a"')
    done = shop.run(broken, script="scripts/import", check=False)
    assert done.returncode == 1
    assert "refused with 400" in done.stderr
    assert shop.run(tmp_path / "absent.json", script="scripts/import", check=False).returncode == 1


def test_a_real_catalogue_imports_completely(shop):
    """DummyJSON's 194 products, where that file is at hand."""
    path = shared("catalogue", "dummyjson", "products.json")
    done = shop.run("--tenant", "globex", path, script="scripts/import")
    assert "194 rows: 194 new, 0 changed, 0 unchanged, 0 failed; 582 reviews" in done.stdout
    found = shop.edge(tenant="globex").get("/api/v1/products", params={"search": "mascara"}).json()["data"]
    assert any("Mascara" in product["name"] for product in found)
    products = json.loads(path.read_text(encoding="utf-8"))
    stock = shop.value("SELECT sum(on_hand)::int FROM shop.stock WHERE tenant_id = 3")
    assert stock == sum(product["stock"] for product in products)
