"""What the runners of scripts/test reported, in a folder of NAME.json files.

usage: test_report.py again|verdict|record FOLDER [COMMAND]

NAME.json, written by t/conftest.py, t/unit/run and scripts/test: {"passed", "failed", "skipped", "left_out": [tests that were skipped],
"faults": [{"test", "when"}]}; a lane adds NAME.json.files: {"seconds": {file: s}}.  FOLDER/failures names the runners that failed, whatever
the cause.

again    prints "MODE FILE..." for each mode of which the files that failed beside another lane should run once more, alone
verdict  prints what failed or is unsteady and the totals; exits with 1 when anything failed.  COMMAND is how the tests are called
record   prints t/durations.txt
"""

import glob
import json
import pathlib
import re
import sys

# more than this many files that fail is no bad luck
MOST = 3


def load(folder):
    return {pathlib.Path(path).stem: json.loads(pathlib.Path(path).read_text()) for path in glob.glob(f"{folder}/*.json")}


def failures(folder):
    path = pathlib.Path(folder) / "failures"
    return list(dict.fromkeys(path.read_text().split("\n")[:-1])) if path.exists() else []


def mode_of(name):
    """stack-1 → stack; a runner that is no lane has none."""
    found = re.fullmatch(r"(stack|asan)-\d+", name)
    return found and found[1]


def file_of(test):
    return pathlib.Path(test.split("::")[0]).name


def again(folder):
    """mode → files.  What a file's end finds (alerts, sanitizers, leaks: a fault of `teardown`) is never bad luck, nor is a file that
    cannot be read, nor a runner that failed for another reason than its tests."""
    reports, failed = load(folder), failures(folder)
    if not failed or not all(mode_of(name) and reports[name].get("faults") for name in failed):
        return {}
    faults = [(mode_of(name), fault) for name in failed for fault in reports[name]["faults"]]
    if any(fault["when"] in ("teardown", "collect") for _, fault in faults):
        return {}
    files = {(mode, file_of(fault["test"])) for mode, fault in faults}
    if len(files) > MOST:
        return {}
    return {mode: sorted(file for m, file in files if m == mode) for mode in sorted({mode for mode, _ in files})}


def unsteady(reports, failed):
    """Runner → its tests that failed, when all of the files that failed in its mode have passed since, and no such test was left out."""
    shaky = {}
    for name in failed:
        second = f"again-{mode_of(name)}"
        if mode_of(name) and second in reports and second not in failed:
            tests = [fault["test"] for fault in reports[name]["faults"]]
            if not set(tests) & set(reports[second].get("left_out", ())):
                shaky[name] = tests
    return shaky


def verdict(folder, command):
    reports, failed = load(folder), failures(folder)
    shaky = unsteady(reports, failed)
    failed = [name for name in failed if name not in shaky]
    for test in sorted({test for tests in shaky.values() for test in tests}):
        print(f"unsteady: {test} failed beside another lane, and its file passed alone: mend the test")
    tests = sorted({fault["test"] for name in failed for fault in reports.get(name, {}).get("faults", ())})
    for test in tests:
        print(f"failed: {test}")
    other = [name for name in failed if not reports.get(name, {}).get("faults")]
    if other:
        print(f"failed: {', '.join(other)}")
    if tests:
        asan = "COMMERCE_TEST_MODE=asan " if all("asan" in name for name in failed) else ""
        names = sorted({re.sub(r"^test_|\.py$", "", file_of(test)) for test in tests})
        print(f"Again: {asan}{command} {' '.join(names)}")
    count = {key: sum(r[key] for name, r in reports.items() if not name.startswith("again-")) for key in ("passed", "failed", "skipped")}
    mended = sum(len(tests) for tests in shaky.values())
    print(f"{count['passed'] + mended} passed, {count['failed'] - mended} failed, {count['skipped']} skipped")
    return 1 if failed else 0


def record(folder):
    seconds = {}
    for line in pathlib.Path("t/durations.txt").read_text().splitlines():
        if line and not line.startswith("#"):           # files that did not run this time
            seconds[line.split()[1]] = float(line.split()[0])
    for path in glob.glob(f"{folder}/stack-*.json.files"):
        seconds.update(json.loads(pathlib.Path(path).read_text())["seconds"])
    print("# Seconds that files take, for the order of scripts/test: COMMERCE_TEST_RECORD=1 scripts/test full")
    for name in sorted(seconds, key=lambda name: (-seconds[name], name)):
        print(f"{seconds[name]:7.1f}  {name}")


def main():
    if len(sys.argv) < 3 or sys.argv[1] not in ("again", "verdict", "record"):
        sys.exit(__doc__.strip())
    command, folder = sys.argv[1:3]
    if command == "again":
        for mode, files in again(folder).items():
            print(mode, *files)
    elif command == "record":
        record(folder)
    else:
        sys.exit(verdict(folder, sys.argv[3]))


if __name__ == "__main__":
    main()
