"""Fixtures: one stack for the run, a fresh shop for each file, checks after each file."""

import json
import os
import pathlib
import re
import tempfile

import pytest

import stack as stack_module

HERE = pathlib.Path(__file__).parent


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: takes long or breaks things; left out of `scripts/test quick`")


@pytest.fixture(scope="session")
def stack():
    folder = tempfile.mkdtemp(prefix="nginx-commerce-test.")
    stack = stack_module.Stack(folder)
    try:
        try:
            stack.build()
            stack.seed()
        except Exception as e:
            # without a stack there is nothing to test: once is enough to say so
            pytest.exit(f"the stack does not start: {e}", returncode=1)
        yield stack
    finally:
        if os.environ.get("COMMERCE_TEST_KEEP"):
            print(f"\nkept: {folder}; end it with: scripts/stack --run {folder} wipe")
        else:
            stack.wipe()


@pytest.fixture(scope="module")
def shop(stack, request):
    """The shop as after the seed.  What the file leaves behind is an error of its last test."""
    stack.fresh(re.sub(r"\W", "_", request.module.__name__))
    yield stack
    faults = stack.problems()
    assert not faults, "\n".join(["after the last test of this file:", *faults])


@pytest.fixture(scope="module")
def probes(shop):
    """Configuration that loads t/contracts/probe.yaml beside the shop's contract."""
    with shop.db() as db:
        db.execute((HERE / "contracts" / "probe.sql").read_text())
    bundle = shop.folder / "probe.json"
    bundle.write_text(shop.run("bundle", HERE / "contracts" / "probe.yaml", script="scripts/contract").stdout)
    return {"http": f"commerce_contract {bundle};"}


@pytest.fixture
def anyone(shop):
    return shop.edge()


@pytest.fixture
def customer(shop):
    return shop.user()


@pytest.fixture
def staff(shop):
    return shop.staff()


def pytest_sessionfinish(session, exitstatus):
    """Figures for scripts/test, which adds them up over all runners."""
    path = os.environ.get("COMMERCE_TEST_REPORT")
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if path and reporter:
        stats = {name: len(reporter.stats.get(name, ()))
                 for name in ("passed", "failed", "error", "skipped", "xpassed")}
        failed = stats["failed"] + stats["error"] + stats["xpassed"]
        if exitstatus and not failed:
            failed = 1
        with open(path, "w", encoding="utf-8") as f:
            json.dump({"passed": stats["passed"], "failed": failed, "skipped": stats["skipped"]}, f)
