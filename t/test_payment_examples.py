"""What docs/payments.md lets one type: an order over HTTP, and a command that makes one (F7, F8)."""

import json
import os
import re
import subprocess

from stack import ROOT, wait_for

PAGE = (ROOT / "docs" / "payments.md").read_text()


def examples():
    """The blocks of the page's section, by what is typed in them."""
    section = PAGE.partition("## An order and a command\n")[2].partition("\n## ")[0]
    found = {name: block for block in re.findall(r"```sh\n(.*?)```", section, re.S)
             for name, mark in (("order", "jq '{id, status, code, payment}'"), ("command", "COMMAND=$("), ("kafka", "kcat -b"),
                                ("outbox", "-v command="), ("look", "until curl")) if mark in block}
    assert sorted(found) == ["command", "kafka", "look", "order", "outbox"]
    return found


def typed(shop, *names):
    """These blocks in one shell, at the top of the tree."""
    blocks = examples()
    return subprocess.run(["bash", "-euo", "pipefail", "-c", "".join(blocks[name] for name in names)], capture_output=True, text=True,
                          timeout=180, cwd=ROOT, env={**os.environ, "COMMERCE_RUN": str(shop.folder)})


def documents(text):
    """The JSON documents that the text begins with, and what follows them."""
    found, at = [], 0
    while text[at:].lstrip().startswith("{"):
        at += len(text[at:]) - len(text[at:].lstrip())
        document, at = json.JSONDecoder().raw_decode(text, at)
        found.append(document)
    return found, text[at:].split()


def one_order_by_command(shop, *names):
    done = typed(shop, *names)
    assert done.returncode == 0, done.stdout + done.stderr
    (ordered, commanded), told = documents(done.stdout)
    # the simulated provider declines some; that is an outcome, too
    assert ordered["status"] in ("confirmed", 402), done.stdout
    wait_for(lambda: shop.rows("SELECT 1 FROM shop.payment WHERE order_id = %s AND status IN ('captured', 'failed')", commanded["id"]), 90,
             "it was paid, or not")
    assert shop.value("SELECT note FROM shop.orders WHERE id = %s", commanded["id"]).startswith("command-")
    assert "checkout.payment-command|checkout.ProcessPayment" in told and any(line.startswith("checkout.checkout-events|") for line in told), told
    return commanded


def test_an_order_and_a_command_through_the_outbox(shop):
    one_order_by_command(shop, "order", "command", "outbox", "look")
