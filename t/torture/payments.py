"""The provider of the torture's shops: scripts/payment-double as a program of its own, an account for each shop."""

import json
import subprocess

import httpx

import stack as s

CARDS = ("pm_card_visa",) * 17 + ("pm_card_chargeDeclined", "pm_card_authenticationRequired", "pm_card_threeDSecure2Required")
HOOK = "/api/v1/webhooks/payments/stripe"
# seconds until an unpaid order is taken back, and that a request waits for the provider
TTL, WAIT = 40, 2


class Double:
    """Three shops take its cards once connect() has run.  It ends with stop()."""

    def __init__(self, shop, tenants):
        self.shop, self.tenants = shop, tenants
        self.port, = s.free_ports(1)
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}/_double", timeout=30)
        self.program = subprocess.Popen([str(s.ROOT / "scripts" / "payment-double"), "--port", str(self.port), "--quiet"],
                                        stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        s.wait_for(self.answers, 20, "the payment double answers")

    def answers(self):
        try:
            return self.ask("faults") == []
        except httpx.HTTPError:
            return False

    def stop(self):
        self.client.close()
        self.program.terminate()
        self.program.wait(20)

    def connect(self):
        """Keys and settings of the shops; the lines that nginx needs."""
        accounts, lines = {}, [f"commerce_fetch_url stripe http://127.0.0.1:{self.port};", f"commerce_fetch_wait {WAIT}s;"]
        for tenant in self.tenants:
            names = {f"stripe.{tenant}": f"sk_test_{tenant}", f"stripe.{tenant}.webhook": f"whsec_of_{tenant}"}
            for name, text in names.items():
                secret = self.shop.folder / "secrets" / name
                secret.unlink(missing_ok=True)
                secret.write_text(text + "\n")
                secret.chmod(0o400)
                at = "" if name.endswith("webhook") else f" for=http://127.0.0.1:{self.port}"
                lines.append(f"commerce_secret {name} file={secret}{at};")
            accounts[f"sk_test_{tenant}"] = {"url": self.shop.url + HOOK, "secrets": [f"whsec_of_{tenant}"],
                                             "headers": {"Host": f"{tenant}.localhost"}}
        with self.shop.db() as db:
            db.execute("UPDATE shop.tenant SET settings = settings || %s WHERE slug = ANY (%s)", (json.dumps(
                {"reservation_ttl": TTL, "payments": {"methods": ["manual", "stripe"], "attempts": 1}}), self.tenants))
        self.ask("webhook", {"accounts": accounts})
        return "\n".join(lines)

    def ask(self, path, body=None):
        answer = self.client.get(path) if body is None else self.client.post(path, json=body)
        answer.raise_for_status()
        return answer.json()

    def customer(self, action):
        """The customer does what the bank wants; a secret begins with the intent's id."""
        self.ask("customer", {"intent": action["client_secret"].partition("_secret_")[0], "result": "succeeded"})

    def ledger(self):
        """By order: what was charged, each time, and what was given back."""
        found = {}
        for line in self.ask("ledger"):
            charges, refunds = found.setdefault(line["order_id"], ([], []))
            (charges if line["kind"] == "charge" else refunds).append(line["amount"])
        return found
