"""Fixtures: one stack for the run, a fresh shop for each file, checks after each file."""

import faulthandler
import json
import os
import pathlib
import re
import shutil
import signal
import tempfile

import pytest

import stack as stack_module
import tables as tables_module

HERE = pathlib.Path(__file__).parent
# seconds until a test hangs, whatever the machine
LIMIT = int(os.environ.get("COMMERCE_TEST_LIMIT", "1200"))


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: takes long or breaks things; left out of `scripts/test quick`")
    config.addinivalue_line("markers", "heavy: its file loads both processors; of several lanes one at a time runs such a file")


def hangs(*_):
    faulthandler.dump_traceback(all_threads=True)
    pytest.fail(f"it hangs: not done after {LIMIT} s")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call():
    """A test that hangs fails, with all threads' stacks, before somebody ends the whole run and nobody learns which test it was."""
    before = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(LIMIT)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


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
    stack.jobs = set(getattr(request.module, "JOBS", ()))
    stack.fresh(re.sub(r"\W", "_", request.module.__name__))
    yield stack
    faults = stack.problems()
    assert not faults, "\n".join(["after the last test of this file:", *faults])


@pytest.fixture(scope="module")
def quiet(shop):
    """A shop where nothing happens but what is asked for: the sweeper takes no unpaid order back behind a picture of the data."""
    with shop.configured(jobs=False, http="commerce_maintenance 0;"):
        yield shop


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


@pytest.fixture(scope="module")
def crash_build(shop):
    """The file's next nginx is one with the places where a worker dies (ngx_commerce_module/rt/ngx_commerce_crash.h)."""
    shop.run("--crash", script="scripts/build")
    objs = stack_module.ROOT / "objs-crash"
    # as a whole: another lane may be reading it
    made = objs / f".openapi.json.{os.getpid()}"
    shutil.copy(shop.objs / "openapi.json", made)
    made.replace(objs / "openapi.json")
    shop.expect_log(r"worker process \d+ exited on signal 9")
    shop.expect_log(r"shared memory zone .* was locked by \d+")
    shop.run("init", f"OBJS={objs}")
    yield
    shop.run("init", f"OBJS={shop.objs}")
    shop.stop("nginx")
    shop.start("nginx")


@pytest.fixture
def dies(shop, crash_build, tmp_path):
    """dies(point): a new nginx, of which the next worker that comes there is killed while the file that this answers exists."""
    tmp_path.chmod(0o777)
    for folder in (tmp_path.parent, tmp_path.parent.parent):
        folder.chmod(folder.stat().st_mode | 0o011)
    order = tmp_path / "die"

    def dies(point):
        shop.stop("nginx")
        shop.run("start", "nginx", COMMERCE_CRASH=f"{point}@{order}")
        shop.ready()
        return order

    return dies


@pytest.fixture
def customer(shop):
    return shop.user()


@pytest.fixture
def staff(shop):
    return shop.staff()


def pytest_sessionfinish(session, exitstatus):
    """Figures for scripts/test, which adds them up over all runners (scripts/lib/test_report.py)."""
    path = os.environ.get("COMMERCE_TEST_REPORT")
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if path and reporter:
        stats = {name: reporter.stats.get(name, []) for name in ("passed", "failed", "error", "skipped", "xpassed")}
        faults = [*stats["failed"], *stats["error"], *stats["xpassed"]]
        report = {"passed": len(stats["passed"]), "failed": len(faults), "skipped": len(stats["skipped"]),
                  "left_out": [report.nodeid for report in stats["skipped"]],
                  "faults": [{"test": fault.nodeid, "when": getattr(fault, "when", "collect")} for fault in faults]}
        if exitstatus and not faults:
            report["failed"] = 1
        pathlib.Path(path).write_text(json.dumps(report))


@pytest.fixture(scope="module")
def products(shop):
    return tables_module.catalogue(shop)


@pytest.fixture(scope="module")
def tables(shop, products):
    """Recommendations of this module: tables of these products."""
    return tables_module.Tables(shop, products)


@pytest.fixture(scope="module")
def trained(tables):
    if not tables.generation:
        tables.publish()
    return tables
