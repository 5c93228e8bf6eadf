"""Files of tests shared out among several runs of pytest, each with a stack of its own; scripts/test loads this as a plugin.

A lane takes the next file when it has finished one, the longest first (durations.txt), so that lanes end together whatever a
machine is fast at.  A file marked `heavy` loads both processors: only one of these runs at a time.  Each file that ends is one line of
progress on the descriptor COMMERCE_TEST_PROGRESS; what pytest prints is the lane's log.
"""

import collections
import fcntl
import json
import os
import pathlib
import signal
import time

QUEUE = pathlib.Path(os.environ["COMMERCE_TEST_QUEUE"])
LANE = os.environ["COMMERCE_TEST_LANE"]
PROGRESS = int(os.environ.get("COMMERCE_TEST_PROGRESS", "1"))
DURATIONS = pathlib.Path(__file__).with_name("durations.txt")
RED, PLAIN = ("\033[31m", "\033[0m") if os.isatty(PROGRESS) and not os.environ.get("NO_COLOR") else ("", "")


def durations():
    """Seconds by file.  What is not listed is new: it comes first."""
    rows = (line.split() for line in DURATIONS.read_text().splitlines() if line and not line.startswith("#"))
    return {name: float(seconds) for seconds, name in rows}


class Files:
    """The files that this lane gets, one by one."""

    def __init__(self, items):
        self.items = collections.defaultdict(list)
        for item in items:
            self.items[item.path.name].append(item)
        known = durations()
        self.left = sorted(self.items, key=lambda name: -known.get(name, 1e9))
        self.heavy = {name for name, items in self.items.items() if any(item.get_closest_marker("heavy") for item in items)}
        QUEUE.mkdir(exist_ok=True)
        self.lock = open(QUEUE.parent / "heavy.lock", "a", encoding="ascii")

    def claim(self, name):
        try:
            os.close(os.open(QUEUE / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            return True
        except FileExistsError:
            return False

    def alone(self, wait):
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            return True
        except BlockingIOError:
            return False

    def take(self):
        """The name of the next file, or None.  A heavy one while another lane has such is left for later."""
        fcntl.flock(self.lock, fcntl.LOCK_UN)
        later = []
        for name in list(self.left):
            if name in self.heavy and not self.alone(wait=False):
                later.append(name)
                continue
            self.left.remove(name)
            if self.claim(name):
                return name
            fcntl.flock(self.lock, fcntl.LOCK_UN)
        for name in later:
            self.left.remove(name)
            if not (QUEUE / name).exists():
                self.alone(wait=True)
                if self.claim(name):
                    return name
                fcntl.flock(self.lock, fcntl.LOCK_UN)
        return None


COUNTS = collections.defaultdict(collections.Counter)
FAILED = {}
DONE = {}


def why(report):
    """The exception's first line: all of it stands in the lane's log, at its end."""
    crash = getattr(report.longrepr, "reprcrash", None)
    lines = (crash.message if crash else str(report.longrepr)).strip().splitlines()
    return lines[0][:200] if lines else report.when


def pytest_runtest_logreport(report):
    name = pathlib.Path(report.nodeid.split("::")[0]).name
    if report.failed:
        COUNTS[name]["failed"] += 1
        FAILED.setdefault(report.nodeid, why(report))
    elif report.skipped or report.when == "call":
        COUNTS[name]["skipped" if report.skipped else "passed"] += 1


def finished(name, seconds):
    DONE[name] = round(seconds, 1)
    (QUEUE / name).write_text(f"{seconds:.1f}\n")
    count = COUNTS[name]
    told = ", ".join(f"{count[k]} {k}" for k in ("passed", "failed", "skipped") if count[k])
    colour = RED if count["failed"] else ""
    lines = [f"  {colour}{LANE:8} {name:28} {told:30} {seconds:5.0f} s{PLAIN if colour else ''}"]
    lines += [f"             {test.split('::', 1)[-1]}: {reason}" for test, reason in FAILED.items() if test.split("::")[0].endswith(name)]
    os.write(PROGRESS, ("\n".join(lines) + "\n").encode())


def pytest_configure(config):
    # a shell starts what it puts into the background with SIGINT ignored; both mean: take the stack down and go
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)


def pytest_runtestloop(session):
    """Instead of pytest's own: not all items, but those of the files that this lane gets."""
    if session.testsfailed and not session.config.option.continue_on_collection_errors:
        raise session.Interrupted(f"{session.testsfailed} errors while collecting")
    files = Files(session.items)
    while name := files.take():
        began = time.monotonic()
        items = files.items[name]
        # what a test of another file needs outlives this one; which file that will be is not known yet
        other = next((items[0] for other, items in files.items.items() if other != name), None)
        for item, following in zip(items, [*items[1:], other]):
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if session.shouldfail:
                raise session.Failed(session.shouldfail)
            if session.shouldstop:
                raise session.Interrupted(session.shouldstop)
        finished(name, time.monotonic() - began)
    return True


def pytest_sessionfinish(session, exitstatus):
    path = os.environ.get("COMMERCE_TEST_REPORT")
    if path:
        with open(path + ".files", "w", encoding="utf-8") as f:
            json.dump({"seconds": DONE}, f)
