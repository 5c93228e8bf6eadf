"""A provider of payments as tests need it: it keeps books, repeats its answer to a key, and fails as it is told."""

import contextlib
import json
import socket
import threading

import peer


class Handler(peer.Handler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        with contextlib.suppress(OSError):
            self.server.provider.serve(self, self.path.strip("/"), self.headers["Idempotency-Key"], body)


class Provider(peer.Peer):
    """fault: (action, payment, nth call) -> None or a word; decide: (payment, amount) -> success, declined or requires_action."""

    def __init__(self, port):
        super().__init__(port)
        self.server.RequestHandlerClass = Handler
        self.server.provider = self
        self.books, self.refunds, self.calls = {}, {}, []
        self.reset()

    def reset(self):
        self.gate.set()                                 # of the test before
        with self.lock:
            self.gated = 0
        self.fault = lambda action, payment, nth: None
        self.decide = lambda payment, amount: "success"
        self.gate = threading.Event()

    def serve(self, handler, action, key, body):
        payment = body["payment"]
        with self.lock:
            nth = sum(1 for a, p, _ in self.calls if (a, p) == (action, payment))
            self.calls.append((action, payment, key))
        fault = self.fault(action, payment, nth)
        if fault in ("500", "cut", "closed", "silent"):           # nothing came of it
            return self.fail(handler, fault)
        if fault == "gate":
            self.waiting(payment)
        with self.lock:
            answer = getattr(self, f"do_{action}")(payment, key, body)
        if fault and fault.startswith("late-"):         # it was done, and nobody heard of it
            return self.fail(handler, fault.removeprefix("late-"))
        return handler.answer(200, json.dumps(answer).encode(), Content_Type="application/json")

    def fail(self, handler, how):
        if how == "500":
            handler.answer(500, b"oops")
        elif how == "silent":
            self.closing.wait(60)
        else:                                           # half an answer: without any, curl asks again where the connection was used before
            if how == "cut":
                handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{")
                handler.wfile.flush()
            handler.connection.shutdown(socket.SHUT_RDWR)

    def waiting(self, payment):
        with self.lock:
            self.gated += 1
        self.gate.wait(60)

    def entry(self, payment):
        return self.books.get(payment)

    def do_pay(self, payment, key, body):
        entry = self.books.get(payment)
        if entry is None:
            state = self.decide(payment, body["amount"])
            if state == "success" and body["capture"] == "later":
                state = "authorized"
            entry = self.books[payment] = {"state": state, "amount": body["amount"], "currency": body["currency"], "refunded": 0,
                                           "key": key, "charges": int(state == "success")}
        return self.told(payment, entry)

    def do_query(self, payment, key, body):
        entry = self.books.get(payment)
        return self.told(payment, entry) if entry else {"outcome": "failed", "code": "unknown-payment"}

    def do_void(self, payment, key, body):
        entry = self.books[payment]
        if entry["state"] in ("authorized", "requires_action"):
            entry["state"] = "voided"
        return self.told(payment, entry) if entry["state"] == "voided" else {"outcome": "failed", "code": "too-late"}

    def do_capture(self, payment, key, body):
        entry = self.books[payment]
        if entry["state"] == "authorized":
            entry.update(state="success", amount=body["amount"], charges=entry["charges"] + 1)
        return self.told(payment, entry)

    def do_refund(self, payment, key, body):
        entry = self.books[payment]
        if key not in self.refunds:
            if entry["refunded"] + body["amount"] > entry["amount"]:
                return {"outcome": "failed", "code": "too-much"}
            entry["refunded"] += body["amount"]
            self.refunds[key] = body["amount"]
        return {"outcome": "success", "reference": f"re-{key}", "amount": body["amount"], "currency": body["currency"]}

    def told(self, payment, entry):
        answer = {"outcome": entry["state"], "reference": f"ref-{payment}"}
        if entry["state"] in ("success", "authorized"):
            answer.update(amount=entry["amount"], currency=entry["currency"])
        elif entry["state"] == "declined":
            answer.update(code="card-declined", detail="The card was declined.")
        elif entry["state"] == "requires_action":
            answer["action"] = {"type": "double", "client_secret": f"secret-{payment}"}
        return answer

    # ---- what tests ask ----

    def charged(self, order):
        """What the customer has paid for this order in the end, and how often money was taken."""
        with self.lock:
            mine = [e for p, e in self.books.items() if p.startswith(str(order)) and e["state"] == "success"]
            return sum(e["amount"] - e["refunded"] for e in mine), sum(e["charges"] for e in mine)

    def keys(self, order, action="pay"):
        with self.lock:
            return [key for a, p, key in self.calls if a == action and p.startswith(str(order))]

    def confirm(self, order, attempt=1):
        """The customer has done what the provider wanted."""
        with self.lock:
            self.books[f"{order}:{attempt}"].update(state="success", charges=1)
