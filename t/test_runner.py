"""scripts/test tells what failed: nothing that an end of a file found, and nothing that fails twice, is ever called unsteady."""

import json
import subprocess
import sys

import pytest

from stack import ROOT


class Run:
    """Reports of runners as scripts/test has them, in a folder."""

    def __init__(self, folder):
        self.folder = folder

    def runner(self, name, *faults, passed=10, failed=None, left_out=()):
        """faults: (test, when).  failed: a count that no test explains."""
        failed = len(faults) if failed is None else failed
        (self.folder / f"{name}.json").write_text(json.dumps({
            "passed": passed, "failed": failed, "skipped": 1, "left_out": left_out, "faults": [{"test": test, "when": when} for test, when in faults]}))
        if failed:
            with (self.folder / "failures").open("a") as f:
                f.write(f"{name}\n")

    def ask(self, what):
        done = subprocess.run([sys.executable, ROOT / "scripts/lib/test_report.py", what, self.folder, "scripts/test"],
                              capture_output=True, text=True)
        assert not done.stderr
        return done.returncode, done.stdout.splitlines()


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path)


def test_all_passed(run):
    run.runner("unit", passed=100)
    run.runner("stack-1")
    assert run.ask("again") == (0, [])
    assert run.ask("verdict") == (0, ["110 passed, 0 failed, 2 skipped"])


def test_what_passes_alone_is_unsteady(run):
    run.runner("stack-1", ("test_a.py::test_x", "call"), ("test_b.py::test_y", "setup"))
    run.runner("asan-2", ("test_a.py::test_x", "call"))
    assert run.ask("again") == (0, ["asan test_a.py", "stack test_a.py test_b.py"])
    run.runner("again-stack", passed=7)
    run.runner("again-asan", passed=4)
    code, lines = run.ask("verdict")
    assert (code, lines[-1]) == (0, "23 passed, 0 failed, 2 skipped")
    assert [line.split()[:2] for line in lines[:-1]] == [["unsteady:", "test_a.py::test_x"], ["unsteady:", "test_b.py::test_y"]]


@pytest.mark.parametrize("second", ["test_a.py::test_x", "test_a.py::test_other"])
def test_what_fails_alone_has_failed(run, second):
    run.runner("stack-1", ("test_a.py::test_x", "call"))
    run.runner("again-stack", (second, "call"))
    code, lines = run.ask("verdict")
    assert (code, lines[-2:]) == (1, ["Again: scripts/test a", "10 passed, 1 failed, 1 skipped"])
    assert "failed: test_a.py::test_x" in lines and f"failed: {second}" in lines


def test_what_is_left_out_has_not_passed(run):
    run.runner("stack-1", ("test_a.py::test_x", "call"))
    run.runner("again-stack", left_out=["test_a.py::test_x"])
    assert run.ask("verdict")[0] == 1


@pytest.mark.parametrize("faults, failed", [
    ([("test_a.py::test_x", "teardown")], None),                        # an alert, a sanitizer's line, a leak
    ([("test_a.py", "collect")], None),                                 # it does not even load
    ([("test_a.py::test_x", "call"), ("test_b.py::test_y", "teardown")], None),
    ([(f"test_{name}.py::test_x", "call") for name in "abcd"], None),   # more than bad luck
    ([], 1)], ids=["end of a file", "not loaded", "also an end of a file", "many", "no test at all"])
def test_no_second_chance(run, faults, failed):
    run.runner("stack-1", *faults, failed=failed)
    assert run.ask("again") == (0, [])
    assert run.ask("verdict")[0] == 1


def test_other_runners_have_none(run):
    run.runner("stack-1", ("test_a.py::test_x", "call"))
    run.runner("lint", failed=1, passed=0)
    assert run.ask("again") == (0, [])
    code, lines = run.ask("verdict")
    assert code == 1 and "failed: lint" in lines and lines[-1] == "10 passed, 2 failed, 2 skipped"
