"""A short round of t/torture: what scripts/torture does for longer, with fewer orders and each fault at least twice."""

import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent / "torture"))

import torture  # noqa: E402
from stack import SLOW  # noqa: E402

pytestmark = pytest.mark.slow
JOBS = ("notifications",)
# Of the provider's faults all at once; processes that stand still are for the long round.  What leaves leases behind comes first: they run
# out beside the others.
SHORT = ["pay-all", "postgres", "kill-worker", "redis", "reload", "none"]


@pytest.fixture(scope="module")
def world(shop):
    made = torture.set_up(shop)
    yield made
    made.end()
    for secret in (shop.folder / "secrets").glob("stripe.*"):
        secret.unlink()


@pytest.mark.parametrize("fault", SHORT)
def test_buyers_are_served(world, fault):
    report = torture.run(world, fault, checkouts=150, hits=2, within=10 * SLOW)
    assert not report.faults, "\n".join([str(report), *report.faults[:20]])
    assert report.orders > 100, report


def test_books_after(world):
    """Of all of these, when payments, events and mails have come to their ends."""
    common = torture.audit(world)
    assert not common, "\n".join(common[:20])
    for report in world.reports:
        assert not report.faults, "\n".join([str(report), *report.faults[:20]])
        assert report.cards and report.mails and report.events > report.orders, report
