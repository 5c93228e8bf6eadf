"""The zone of the similarity tables: what is not let in, who leaves, and for how many there is room."""

import contextlib
import os
import pathlib
import subprocess

import pytest

from stack import files_limit, limit_files, wait_for
from tables import TRAIN, Tables, catalogue, status


@pytest.fixture(scope="module")
def trained(shop):
    tables = Tables(shop, catalogue(shop))
    tables.publish()
    return tables


def small(shop):
    """A zone with places for 128 tables, and memory for the names of 512 refused files."""
    return shop.configured(replace=[(r"commerce_similarity_zone\s+tables:64m", "commerce_similarity_zone tables:4m")])


def counted(shop, **numbers):
    """What /health says of the tables."""
    with shop.edge() as edge:
        wait_for(lambda: numbers.items() <= edge.get("/health").json()["recommendations"].items(), 30, f"{numbers}")


def test_a_folder_full_of_junk(shop, trained):
    """Each file is told about once, however many there are, and those of shops get in: at once, or as they change."""
    shop.expect_log(r"is no table|more files of")
    junk = [trained.folder / f"{n}.sim" for n in range(5000, 5700)]

    def told(words):
        return sum(words in line for line in shop.log_lines()[mark:])

    def rounds():
        for _ in range(2):
            trained.publish()

    with small(shop):
        trained.shown(trained.generation)
        mark = len(shop.log_lines())
        for tenant in range(5000, 5200):
            trained.put(f"no table {tenant}".encode(), tenant=tenant)
        counted(shop, refused=200, tables=1)
        rounds()
        assert (told("is no table"), told("more files of")) == (200, 0)
        trained.put(b"no table either", tenant=5007)
        wait_for(lambda: told("is no table") == 201, 20, "one that changed")
        assert told('5007.sim" is no table') == 2

        # more than can be remembered: one line for all of those
        for tenant in range(5200, 5700):
            trained.put(f"no table {tenant}".encode(), tenant=tenant)
        counted(shop, refused=700, tables=1)
        once = told("is no table")
        assert 400 < once <= 201 + 312
        rounds()
        assert (told("is no table"), told("more files of")) == (once, 1)

        for file in junk:
            file.unlink()
        counted(shop, refused=0, tables=1)
        trained.put(b"no table", tenant=5001)
        counted(shop, refused=1)
        junk[1].unlink()
        counted(shop, refused=0)
    trained.shown(trained.generation)


def test_a_file_for_which_there_is_no_descriptor_is_tried_again(shop, trained):
    """It is no refusal: the loader says once that files have to wait, and takes this one as soon as it can."""
    def squeeze():
        """Leaves worker 0 one descriptor, which the folder takes."""
        used = set()
        for link in pathlib.Path(f"/proc/{worker}/fd").iterdir():
            with contextlib.suppress(OSError):
                if not os.readlink(link).startswith(str(trained.folder)):
                    used.add(int(link.name))
        limit_files(worker, next(n for n in range(most) if n not in used) + 1)

    def told(words):
        return sum(f" {worker}#" in line and words in line for line in shop.log_lines()[mark:])

    def waits():
        squeeze()
        return told("cannot be opened")

    shop.expect_log(r"24: Too many open files")
    worker = shop.workers()[0]
    most = files_limit(worker)
    table = trained.train()
    mark = len(shop.log_lines())
    squeeze()
    try:
        trained.put(table)
        wait_for(waits, 20, "the table cannot be opened")
    finally:
        limit_files(worker, most)
    trained.shown(trained.generation)
    counted(shop, refused=0)
    assert (told("cannot be opened now"), told("cannot be opened;")) == (1, 0)


@pytest.fixture
def foreign(tmp_path):
    """Makes a small table of any tenant."""
    (tmp_path / "events.tsv").write_text("1\t1\t1700000000\tview\n1\t2\t1700000100\tview\n2\t1\t1700000000\tview\n")

    def foreign(tenant):
        subprocess.run([TRAIN, "fit", "--train", tmp_path / "events.tsv", "--out", tmp_path / "t.sim", "--tenant", str(tenant),
                        "--no-evaluate", "--quiet", "--threads", "1"], check=True)
        return tmp_path / "t.sim"
    return foreign


def test_places_of_tenants_that_are_gone_are_used_again(shop, trained, foreign):
    """When there is no place left, a table waits for one, and gets it without being touched."""
    shop.expect_log(r"has room for 128 shops")
    aside = trained.folder / "aside"
    (trained.folder / "1.sim").rename(aside)
    others = range(6000, 6128)
    for tenant in others:
        trained.put(foreign(tenant), tenant=tenant)
    with small(shop):
        counted(shop, tables=128, refused=0)
        mark = len(shop.log_lines())
        aside.rename(trained.folder / "1.sim")
        counted(shop, tables=128, refused=1)
        assert status(shop) == {"status": "not_trained", "refused": 1}
        for tenant in others:
            (trained.folder / f"{tenant}.sim").unlink()
        trained.shown(trained.generation)
        counted(shop, tables=1, refused=0)
        assert sum("has room for 128 shops" in line for line in shop.log_lines()[mark:]) == 1
    trained.shown(trained.generation)


def test_tables_without_a_file_are_looked_at_to_the_last(shop, trained, foreign):
    """More of them than a round takes: those of tenants that are there stay, those of the others go, wherever they are."""
    there = range(7000, 7100)
    others = range(7100, 7120)
    with shop.db() as db:
        db.execute("INSERT INTO shop.tenant (id, slug, name, currency) SELECT n, 'shop-' || n, 'Shop ' || n, 'EUR' "
                   "FROM generate_series(%s::int, %s) n", [there[0], there[-1]])
    for tenant in (*there, *others):
        trained.put(foreign(tenant), tenant=tenant)
    with small(shop):
        counted(shop, tables=121)
        wait_for(lambda: status(shop, f"shop-{there[-1]}").get("status") == "ready", 20, "the tenants are known")
        for tenant in (*there, *others):
            (trained.folder / f"{tenant}.sim").unlink()
        counted(shop, tables=101, refused=0)
        for tenant in (there[0], there[-1]):
            assert status(shop, f"shop-{tenant}")["status"] == "ready"
        with shop.db() as db:
            for table, column in ("housekeeping", "tenant_id"), ("tenant", "id"):
                db.execute(f"DELETE FROM shop.{table} WHERE {column} = ANY (%s)", [list(there)])
        counted(shop, tables=1)
    trained.shown(trained.generation)
