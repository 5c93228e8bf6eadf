"""schemathesis, which knows nothing of this shop but its contract, over every operation.

It makes requests that fit the schemas and requests that do not, and compares each answer with what the contract says:
no 5xx, a documented status, content type and body, and no success for what does not fit.
"""

import json
import os
import pathlib
import re
import subprocess

import pytest

from operations import operations
from stack import ROOT
from world import PERMISSIONS, World

VERSION = "4.32.5"
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "nginx-commerce"
SEED = os.environ.get("COMMERCE_TEST_SEED", "20260101")
EXAMPLES = os.environ.get("COMMERCE_TEST_EXAMPLES", "12")     # of an operation, each way
CHECKS = ("not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,"
          "response_schema_conformance,negative_data_rejection,missing_required_header,unsupported_method,"
          "allow_header_conformance,ignored_auth")

pytestmark = [pytest.mark.slow, pytest.mark.heavy]


@pytest.fixture(scope="module")
def schemathesis():
    """Its command, from PyPI, in a folder of the user's cache that is named by the version."""
    home = CACHE / f"schemathesis-{VERSION}"
    if not (home / "complete").exists():
        for command in (["/usr/bin/python3", "-m", "venv", "--clear", home],
                        [home / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", f"schemathesis=={VERSION}"]):
            done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
            if done.returncode:
                pytest.skip(f"schemathesis {VERSION} cannot be installed from PyPI: {(done.stderr or done.stdout).strip()[-300:]}")
        (home / "complete").touch()
    return home / "bin" / "st"


@pytest.fixture(scope="module")
def world(shop):
    # so many requests from one address and for one account would be counted
    shop.configure(limits=None)
    shop.stop("nginx")
    shop.start("nginx")
    return World(shop)


def who(shop, world, op, customers):
    """The headers that the operation's auth demands. Each operation has a customer and a tenant of its own to spoil."""
    kind, _, permission = op.auth.partition(":")
    if kind == "public":
        return {}
    if kind == "platform":
        admin = shop.rows("SELECT id FROM shop.app_user WHERE tenant_id = 4 ORDER BY created_at LIMIT 1")[0]["id"]
        return {"Authorization": f"Bearer {shop.token(admin, ['platform'], 4)}", "Host": "platform.localhost"}
    if kind == "staff":
        if permission and op.method == "GET" and world.secret:
            return {"X-API-Key": world.secret}
        return {"Authorization": f"Bearer {shop.token(world.owner, ['staff', 'owner', *PERMISSIONS], exp=2_000_000_000)}"}
    return {"Authorization": f"Bearer {next(customers)}"}


def credentials(shop, world):
    """What t/schemathesis_hooks.py is told about each operation."""
    every = operations(shop.contract)
    customers = iter([token for _, token in shop.customers(len(every) + 2)][2:])
    world.owner = shop.value("SELECT id::text FROM shop.app_user WHERE tenant_id = 1 AND email = 'admin@example.com'")
    answer = world.staff.post("/api/v1/admin/api-keys", json={"kind": "secret", "name": "schemathesis", "scopes": PERMISSIONS})
    world.secret = answer.json()["key"]
    victim = shop.value("INSERT INTO shop.tenant (slug, name) VALUES ('spoilt', 'Spoilt') RETURNING id")
    found = {}
    for op in every:
        values = {**world.values, "tenants": [victim]}
        world.values, kept = values, world.values
        try:
            paths = [{k: str(v) for k, v in p.items()} for p in world.path_values(op)] if op.kinds() else []
        finally:
            world.values = kept
        headers = who(shop, world, op, customers)
        if ("header", "If-Match") in op.parameters:
            headers["If-Match"] = '"1"'
        found[op.id] = {"headers": headers, "path": paths}
    return found


def test_contract_holds(shop, world, schemathesis, tmp_path):
    (tmp_path / "world.json").write_text(json.dumps(credentials(shop, world)))
    (tmp_path / "openapi.json").write_text(json.dumps(shop.contract))
    (tmp_path / "schemathesis.toml").write_text(
        '[checks.negative_data_rejection]\nexpected-statuses = ["4xx"]\n')
    mark = shop.log_size()
    # one worker: two threads that parse at a time are an error of Python 3.11 now and then (python/cpython issue 106905)
    done = subprocess.run(
        [schemathesis, "run", tmp_path / "openapi.json", "--url", shop.url, "--seed", SEED, "--max-examples", EXAMPLES,
         "--workers", "1", "--phases", "examples,coverage,fuzzing", "--checks", CHECKS, "--continue-on-failure", "--no-shrink",
         "--suppress-health-check", "all", "--warnings", "off", "--no-color", "--generation-database", "none",
         "--report", "json", "--report-json-path", tmp_path / "report.json"],
        capture_output=True, text=True, cwd=tmp_path, timeout=3000,
        env={**os.environ, "PYTHONPATH": str(ROOT / "t"), "PYTHONDONTWRITEBYTECODE": "1", "NO_COLOR": "1",
             "SCHEMATHESIS_HOOKS": "schemathesis_hooks", "COMMERCE_TEST_WORLD": str(tmp_path / "world.json")})
    (shop.folder / "logs" / "schemathesis.log").write_text(done.stdout)
    assert done.returncode == 0, f"seed {SEED}: {done.stdout[-12000:]}{done.stderr[-2000:]}"
    with shop.log_file().open("rb") as f:
        f.seek(mark)
        lines = f.read().decode(errors="replace").splitlines()
    faults = [line for line in lines if re.search(r"\[(error|crit|alert|emerg)\]|SQLSTATE (22|23|42|XX)", line)]
    assert not faults, "\n".join(faults[:12])
    print(done.stdout[-400:])
