"""A tenant full of things that others must not see, and everybody who might try.

World makes them through the API as tenant demo; requests() names them in every place where an operation takes an id;
faults() says what an answer gives away or should have been.
"""

import itertools
import json
import re
import secrets
import time
import uuid

from operations import Unknown
from stack import wait_for

WORD = "zebrafinch"         # what is searched for; answers may repeat it
PUBLIC = "qpublic7"         # in what tenant demo shows to everybody
PRIVATE = "qprivate7"       # in what it shows to one person or to staff
PERMISSIONS = ["catalog.read", "catalog.write", "orders.read", "orders.write", "inventory.write", "customers.read",
               "content.write", "customers.write", "users.read", "users.write", "audit.read", "settings.read", "settings.write", "events.read", "events.write",
               "notifications.send"]
LAST = {"session_revoke_all"}       # voids the token that asks
MINE = {"items", "wishlist"}        # a path below these takes a product, but acts on the caller's own list


def made(answer, *statuses):
    assert answer.status_code in (statuses or (200, 201, 202, 204)), f"{answer.request.url}: {answer.text}"
    return answer.json() if answer.content else None


class World:
    def __init__(self, shop):
        self.shop = shop
        self.key = "victim-" + uuid.uuid4().hex
        keyed = {"Idempotency-Key": self.key}
        staff = self.staff = shop.staff()
        (victim, token), (_, self.other) = shop.customers(2)
        self.victim = v = shop.edge(token=token)
        self.victim_id = victim
        money = {"amount": 1000, "currency": "USD"}

        self.category = made(staff.post("/api/v1/categories", json={
            "name": f"{WORD} {PUBLIC} category", "slug": f"{WORD}-category"}))
        self.brand = made(staff.post("/api/v1/brands", json={"name": f"{WORD} {PUBLIC} brand", "slug": f"{WORD}-brand"}))
        of = {"category_id": self.category["id"], "brand_id": self.brand["id"]}
        self.product = made(staff.post("/api/v1/products", headers=keyed, json={
            "name": f"{WORD} {PUBLIC} product", "slug": f"{WORD}-product", "sku": f"{WORD}-sku", "price": money,
            "stock": 100, **of}))
        self.draft = made(staff.post("/api/v1/products", json={
            "name": f"{WORD} {PRIVATE} draft", "slug": f"{WORD}-draft", "sku": f"{PRIVATE}-1", "price": money, "stock": 3,
            "status": "draft", **of}))
        self.variant = self.product["default_variant_id"]
        made(staff.patch(f"/api/v1/inventory/{self.product['id']}", json={"delta": 1, "note": PRIVATE}))
        self.reservation = made(staff.post("/api/v1/inventory/reserve", json={
            "items": [{"product_id": self.product["id"], "quantity": 1}], "ttl": 86400, "note": PRIVATE}), 201)["reservation_id"]
        self.coupon = made(staff.post("/api/v1/admin/coupons", json={
            "code": f"{WORD}-10", "name": f"{WORD} {PUBLIC} coupon", "kind": "percent", "value": 1000, "target": "order"}))
        self.training = made(staff.post("/api/v1/admin/recommendations/train"))
        self.letter = shop.value(
            "INSERT INTO event.dead_letter (tenant_id, reason, consumer, key, topic, type, event_id, payload, error) VALUES "
            "(1, 'failed', 'consumer.recommend_signal', %s, 'user.interaction', 'shop.user.interaction.v1', gen_random_uuid(), "
            "jsonb_build_object('metadata', %s::text)::text, 'an error') RETURNING id", f"{WORD}-letter", PRIVATE)
        self.location = shop.value("SELECT min(id) FROM shop.location WHERE tenant_id = 1")

        made(v.put("/api/v1/users/profile", json={"name": f"Ann {PRIVATE}"}))
        self.address = made(v.post("/api/v1/users/addresses", headers=keyed, json={
            "type": "SHIPPING", "name": f"Ann {PRIVATE}", "line1": "1 Road", "city": "Town", "country": "DE"}))
        self.order, _ = (made(v.post("/api/v1/orders", headers={"Idempotency-Key": key}, json={
            "items": [{"product_id": self.product["id"], "quantity": 1}], "note": PRIVATE,
            "shipping_address_id": self.address["id"]})) for key in (self.key, "2"))
        made(v.post("/api/v1/wishlist", json={"product_id": self.product["id"]}))
        self.review = made(v.post(f"/api/v1/products/{self.product['id']}/reviews", headers=keyed, json={
            "rating": 4, "comment": f"A review that waits for staff: {PRIVATE}"}))
        made(v.post("/api/v1/interactions", json={"product_id": self.product["id"], "action": "view",
                                                  "metadata": {"from": PRIVATE}}))
        made(v.post("/api/v1/cart/items", headers=keyed, json={"product_id": self.product["id"]}))
        self.cart_id = v.get("/api/v1/cart").json()["id"]

        guest = shop.edge()
        self.guest_token = guest.get("/api/v1/cart").headers["X-Cart-Token"]
        guest.headers["X-Cart-Token"] = self.guest_token
        self.guest_order = made(guest.post("/api/v1/orders", headers=keyed, json={
            "items": [{"product_id": self.product["id"], "quantity": 1}], "note": PRIVATE,
            "email": f"guest-{PRIVATE}@example.com"}))
        made(guest.post("/api/v1/cart/items", json={"product_id": self.product["id"]}))
        self.guest_cart_id = guest.get("/api/v1/cart").json()["id"]
        self.session = str(uuid.uuid4())
        shop.rows("INSERT INTO shop.session (tenant_id, id, user_id, expires_at, user_agent) "
                  "VALUES (1, %s, %s, now() + interval '1 day', %s) RETURNING 1", self.session, self.victim_id, PRIVATE)
        self.colleague = shop.value("SELECT domain.user_put(1, %s, '', %s, '{staff}')::text", f"colleague-{PRIVATE}@example.com",
                                    f"Colleague {PRIVATE}")
        self.cursors = self.find_cursors()
        self.api_key = made(staff.post("/api/v1/admin/api-keys", json={"kind": "secret", "name": f"Key {PRIVATE}"}), 201)["api_key"]
        self.host = made(staff.post("/api/v1/admin/domains", json={"host": f"{PRIVATE}.example"}), 200, 201)["host"]
        self.notification = made(staff.post("/api/v1/send", json={
            "channel": "email", "to": f"somebody-{PRIVATE}@example.com", "subject": PRIVATE, "text": PRIVATE}))["notification_id"]
        self.template = made(staff.post("/api/v1/admin/notification-templates", json={
            "kind": f"{PUBLIC}-note", "channel": "email", "language": "en", "subject": "S", "text": PRIVATE}))["template"]
        self.adapter = made(staff.post("/api/v1/admin/notification-adapters", json={
            "channel": "push", "url": f"https://push.example/{PRIVATE}"}))["adapter"]["id"]
        self.webhook = made(staff.post("/api/v1/admin/webhooks", json={
            "url": f"https://hooks.example/{PRIVATE}", "types": ["shop.user.erased.v1"], "description": PRIVATE}))["webhook"]["id"]
        self.delivery = made(staff.post(f"/api/v1/admin/webhooks/{self.webhook}/test"))["delivery_id"]
        made(staff.put("/api/v1/admin/payments/stripe/key", json={"secret": f"sk_test_{PRIVATE}"}))
        self.signed = made(staff.post("/api/v1/admin/payments/stripe/webhook-secrets", json={"secret": f"whsec_{PRIVATE}"}))["id"]
        self.strangers()

        self.ids = [self.victim_id, self.address["id"], self.order["id"], self.order["number"], self.guest_order["id"],
                    self.guest_order["number"], self.cart_id, self.guest_cart_id, self.guest_token, self.api_key["id"],
                    self.session, self.colleague, self.reservation]
        self.values = {
            "addresses": [self.address["id"]],
            "orders": [self.order["id"], self.guest_order["id"]],
            "user": [self.victim_id],
            "users": [self.colleague, self.victim_id],
            "sessions": [self.session],
            "customers": [self.victim_id],
            "products": [self.product["id"], self.draft["id"]],
            "by-slug": [self.product["slug"], self.draft["slug"]],
            "categories": [self.category["id"], self.category["slug"]],
            "brands": [self.brand["id"], self.brand["slug"]],
            "inventory": [self.product["id"], self.draft["id"]],
            "items": [self.variant],
            "wishlist": [self.product["id"]],
            "api-keys": [self.api_key["id"]],
            "domains": [self.host],
            "tenants": [1],
            "runs": [self.training["id"]],
            "reviews": [self.review["id"]],
            "dead-letters": [self.letter],
            "coupons": [self.coupon["id"], self.coupon["code"]],
            "payments": [1, "nobody"],      # an attempt; a provider that no shop has
            "webhooks": [self.webhook],
            "webhook-secrets": [self.signed],
            "deliveries": [self.delivery],
            "notifications": [self.notification],
            "notification-templates": [self.template],
            "notification-adapters": [self.adapter],
        }
        self.members = {
            "product_id": self.product["id"], "variant_id": self.variant, "category_id": self.category["id"],
            "parent_id": self.category["id"], "brand_id": self.brand["id"], "location_id": self.location,
            "shipping_address_id": self.address["id"], "billing_address_id": self.address["id"],
            "order_id": self.order["id"], "user_id": self.victim_id, "cart_id": self.cart_id,
            "reservation_id": self.reservation,
        }
        self.query = {"category": self.category["slug"], "brand": self.brand["slug"], "search": WORD, "q": WORD}
        self.hidden = {str(self.draft["id"]), self.draft["slug"], self.address["id"], self.order["id"],
                       self.guest_order["id"], self.session, str(self.review["id"])}

    def strangers(self):
        """Keys of acme, and a tenant that is suspended."""
        self.keys = {kind: kind[:1] + "k_" + secrets.token_urlsafe(32) for kind in ("secret", "publishable")}
        with self.shop.db() as db:
            for kind, key in self.keys.items():
                db.execute("INSERT INTO shop.api_key (tenant_id, id, kind, name, hash, prefix, scopes) "
                           "VALUES (2, gen_random_uuid(), %s, 'Stranger', sha256(%s::bytea), %s, %s)",
                           [kind, key, key[:8], PERMISSIONS if kind == "secret" else []])
            self.frozen = db.execute("INSERT INTO shop.tenant (slug, name, status) VALUES ('frozen', 'Frozen', 'suspended') "
                                     "ON CONFLICT (slug) DO UPDATE SET name = excluded.name RETURNING id").fetchone()["id"]
        for key in self.keys.values():
            with self.shop.edge(tenant="acme", headers={"X-API-Key": key}) as edge:
                wait_for(lambda edge=edge: edge.get("/api/v1/categories").status_code == 200, 5, "the edge knows the key")

    def find_cursors(self):
        """A cursor of each of the tenant's lists, found by asking for one row."""
        found = []
        for path in (f"/api/v1/orders/user/{self.victim_id}", "/api/v1/products", "/api/v1/brands", "/api/v1/admin/export",
                     "/api/v1/admin/inventory/low-stock", f"/api/v1/inventory/{self.product['id']}/movements"):
            page = made(self.staff.get(path, params={"limit": 1}))["page"]
            found += [page["next"]] if page["next"] else []
        page = made(self.victim.get("/api/v1/orders", params={"limit": 1}))["page"]
        assert page["next"] and len(found) >= 3
        return [*found, page["next"]]

    # ---- what is asked ----

    def path_values(self, op):
        """Every combination of the tenant's ids for the parameters in the path."""
        choices = []
        schemas = op.named("path")
        for name, kind in op.kinds().items():
            if kind not in self.values:
                raise Unknown(f"{op}: {{{name}}} below /{kind}/ is an id that t/world.py does not know. Let World make such a "
                              f"thing in tenant demo, and add it to World.values['{kind}'].")
            # what the schema refuses would be 422 for anybody
            of_type = [x for x in self.values[kind] if (schemas[name].get("type") != "integer" or isinstance(x, int))
                       and re.search(schemas[name].get("pattern", ""), str(x))]
            choices.append([(name, x) for x in of_type])
        return [dict(c) for c in itertools.product(*choices)]

    def id_members(self, op):
        """Members of the body, at any depth, that take ids."""
        found = op.member_names()
        for name in found:
            if name.endswith("_id") and name not in self.members and name != "external_id":
                raise Unknown(f"{op}: the member {name} looks like an id that t/world.py does not know: add it to World.members")
        return sorted(found & set(self.members))

    def requests(self, op, currency="USD"):
        """Keyword arguments for httpx, each naming things of tenant demo."""
        known = {**self.members, "price": {"amount": 1000, "currency": currency}}
        schema = op.body()
        bodies = [None]
        if schema:
            members = self.id_members(op)
            bodies = [op.sample(schema, known=known, optional=o) for o in [(), *((m,) for m in members), members]]
            if "product_id" in members:
                bodies.append(op.sample(schema, known={**known, "product_id": self.draft["id"]}))
            bodies = [json.loads(text) for text in dict.fromkeys(json.dumps(b) for b in bodies)]
        names = op.named("query")
        required = {n: self.query.get(n) or op.sample(names[n], n) for n in op.required("query")}
        queries = [required] + [{**required, n: self.query[n]} for n in names if n in self.query and n not in required]
        if "cursor" in names:
            queries += [{**required, "cursor": c} for c in self.cursors]
        headers = {"If-Match": '"1"'} if ("header", "If-Match") in op.parameters else {}
        if op.edge.get("idempotency", "none") != "none":
            headers["Idempotency-Key"] = self.key
        for values, body, query in itertools.product(self.path_values(op), bodies, queries):
            request = {"method": op.method, "url": op.url(values), "params": query, "headers": headers}
            if body is not None:
                request["json"] = body
            elif op.content and not schema:
                request["content"] = f"id,sku,name,price\n{self.product['id']},{WORD}-sku,Stolen,1\n"
                request["headers"] = {**headers, "Content-Type": next(iter(op.content))}
            yield request, values

    # ---- what is right ----

    def marks(self, persona):
        found = [PRIVATE, *self.ids] + ([] if persona.host == "demo" else [PUBLIC])
        return [m for m in found if m != persona.subject]

    def leaks(self, persona, answer):
        """Texts in the answer that this persona must not see."""
        body = answer.text
        if answer.headers.get("content-type") == "application/problem+json":
            problem = answer.json()
            problem.pop("instance", None)           # repeats the address that was asked
            body = json.dumps(problem)
        text = (body + answer.headers.get("location", "")).lower()
        return [m for m in self.marks(persona) if m.lower() in text]

    def expected(self, op, persona, request, values):
        """The statuses that are right, or None when any below 500 is."""
        if not op.has_tenant:
            return None
        if persona.suspended or (persona.key and persona.tenant != persona.host):
            return {403}
        if persona.key:
            kind, _, permission = op.auth.partition(":")
            if kind in ("customer", "platform") or (kind == "staff" and permission not in persona.roles):
                return {403}
        elif op.auth != "public":
            if persona.bad:
                return {401}
            if persona.tenant and persona.tenant != persona.host:
                return {403}
            if not persona.tenant and op.auth != "optional":
                return {401}
            if op.auth.startswith("staff"):
                _, _, permission = op.auth.partition(":")
                if not {"staff", "owner"} & set(persona.roles):
                    return {403}
                if permission and permission not in persona.roles and "owner" not in persona.roles:
                    return {403}
            elif op.auth.partition(":")[0] in ("service", "platform"):
                return {403}
        if persona.twin:
            return None
        # a cursor may be refused before the id is looked at
        missing = {400, 404} if "cursor" in request["params"] else {404}
        if persona.subject == self.victim_id:
            missing.add(401)            # there is no such account
        body = json.dumps(request.get("json", ""))
        named = [m for m in self.members if f'"{m}"' in body]
        if persona.host != "demo":
            if named:
                return set(range(400, 500))
            return missing if values else None
        kinds = set(op.kinds().values())
        hidden = {str(x) for x in values.values()} & self.hidden
        if hidden and not kinds & MINE:
            return missing
        if any(f'"{h}"' in body or re.search(rf": {re.escape(h)}\b", body) for h in self.hidden):
            return set(range(400, 500))
        return None

    def faults(self, op, persona, request, values, answer):
        at = f"{persona.name}: {op.id} {request['url']} {request['params'] or ''} {request.get('json', '')}"
        expected = self.expected(op, persona, request, values)
        if answer.status_code >= 500 or (expected and answer.status_code not in expected):
            yield f"{at}: {answer.status_code} instead of {sorted(expected or [])[:2]}: {answer.text[:200]}"
        if expected == {403} and persona.tenant and persona.tenant != persona.host \
                and answer.json().get("code") != "tenant-mismatch":
            yield f"{at}: {answer.json().get('code')} instead of tenant-mismatch"
        if expected and persona.suspended and answer.json().get("code") != "tenant-suspended":
            yield f"{at}: {answer.text[:200]} instead of tenant-suspended"
        if "Idempotent-Replayed" in answer.headers and persona.fresh_key:
            yield f"{at}: replays what somebody else's key has stored"
        leaked = self.leaks(persona, answer)
        if leaked:
            yield f"{at}: shows {leaked}: {answer.text[:300]}"

    def attack(self, ops, persona):
        """All requests of one persona; what was wrong with the answers, and how many there were."""
        found, count, seen = [], 0, set()
        with persona.edge(self.shop) as edge:
            for op in sorted(ops, key=lambda op: op.id in LAST):
                if persona.foreign and persona.host == "demo" and op.auth == "public" and op.method != "GET":
                    continue        # nobody looks at the token: this is asked as "anonymous"
                for request, values in self.requests(op, persona.currency):
                    # a key that this persona has used itself may be replayed to it
                    persona.fresh_key = op.id not in seen
                    if values and not persona.fresh_key and "Idempotency-Key" in request["headers"]:
                        # ... and is of no use for another thing
                        request["headers"] = {**request["headers"], "Idempotency-Key": uuid.uuid4().hex}
                    answer = edge.request(**request)
                    if answer.status_code < 300:
                        seen.add(op.id)
                    found += self.faults(op, persona, request, values, answer)
                    count += 1
        return found, count


class Persona:
    def __init__(self, name, host="demo", tenant=None, roles=(), subject=None, token=None, bad=False, cart=None, twin=False,
                 key=None, suspended=False):
        self.name, self.host, self.tenant, self.roles = name, host, tenant, roles
        self.subject, self.token, self.bad, self.cart, self.twin = subject, token, bad, cart, twin
        self.key, self.suspended = key, suspended
        self.currency = "USD" if host == "demo" else "EUR"
        self.fresh_key = True
        self.foreign = host != "demo" or bad or (tenant or "demo") != "demo"

    def edge(self, shop):
        ids = {"demo": 1, "acme": 2, "globex": 3}
        token = self.token
        if self.tenant and not token and not self.key:
            token = shop.token(self.subject, self.roles, ids[self.tenant])
        edge = shop.edge(tenant=self.host, token=token)
        if self.key:
            edge.headers["X-API-Key"] = self.key
        if self.cart:
            edge.headers["X-Cart-Token"] = self.cart
        return edge


def personas(world):
    """Everybody who is somebody else. Those of globex own things with the very ids and slugs of demo's."""
    shop = world.shop

    def user(tenant, email):
        return shop.value("SELECT u.id::text FROM shop.app_user u JOIN shop.tenant t ON t.id = u.tenant_id "
                          "WHERE t.slug = %s AND u.email = %s", tenant, email)

    staff_roles = ["staff", *PERMISSIONS]
    other = shop.value("SELECT id::text FROM shop.app_user WHERE tenant_id = 1 AND email = 'crowd2@example.com'")
    past = int(time.time()) - 3600
    expired = shop.token(world.victim_id, ["customer"], exp=past, iat=past - 600, nbf=past - 600)
    found = [
        Persona("anonymous"),
        Persona("an expired token of the owner", token=expired, bad=True),
        Persona("a garbage token", token="eyJhbGciOiJub25lIn0.e30.", bad=True),
        Persona("another customer", tenant="demo", roles=["customer"], subject=other),
        Persona("staff without permissions", tenant="demo", roles=["staff"], subject=user("demo", "admin@example.com")),
    ]
    for kind, key in world.keys.items():
        roles = ["service", *PERMISSIONS] if kind == "secret" else ["publishable"]
        found.append(Persona(f"a {kind} key of acme at demo's host", tenant="acme", roles=roles, key=key))
    found.append(Persona("a secret key of acme at home", "acme", "acme", ["service", *PERMISSIONS], key=world.keys["secret"]))
    frozen = shop.token(world.victim_id, ["staff", "owner"], world.frozen)
    found += [Persona("somebody at a suspended shop", "frozen", suspended=True),
              Persona("the owner of a suspended shop", "frozen", token=frozen, suspended=True)]
    for tenant, twin in (("acme", False), ("globex", True)):
        customer, admin = user(tenant, "test@example.com"), user(tenant, "admin@example.com")
        (owner, _), = shop.customers(1, tenant)
        for host in (tenant, "demo"):
            at = "at home" if host == tenant else "at demo's host"
            found += [
                Persona(f"{tenant}'s customer {at}", host, tenant, ["customer"], customer, twin=twin and host == tenant),
                Persona(f"{tenant}'s staff {at}", host, tenant, staff_roles, admin, twin=twin and host == tenant),
                Persona(f"{tenant}'s owner {at}", host, tenant, ["staff", "owner"], owner, twin=twin and host == tenant),
            ]
        found += [
            Persona(f"a guest of {tenant} with a token of demo's guest", tenant, cart=world.guest_token, twin=twin),
            Persona(f"the owner's id in a token of {tenant}", tenant, tenant, ["customer"], world.victim_id, twin=twin),
        ]
    return found
