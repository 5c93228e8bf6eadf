"""The contract's operations as tests need them: requests made from the schemas, and a picture of a tenant's data.

Nothing here names an operation: routes that are added later are tested as they are described.
"""

import copy
import re
import urllib.parse

from stack import wait_for

METHODS = ("get", "post", "put", "patch", "delete")


class Unknown(AssertionError):
    """The contract says something that these tests were not told about."""


class Operation:
    def __init__(self, contract, path, method, item, spec):
        self.contract, self.path, self.method, self.spec = contract, path, method.upper(), spec
        self.id = spec["operationId"]
        self.edge = spec["x-commerce"]
        self.auth = self.edge["auth"]
        self.has_tenant = self.edge.get("tenant", "required") != "none"
        self.parameters = {}
        for p in item.get("parameters", []) + spec.get("parameters", []):
            p = self.resolve(p)
            self.parameters[p["in"], p["name"]] = p
        self.content = self.resolve(spec.get("requestBody", {})).get("content", {})

    def __repr__(self):
        return f"{self.method} {self.path}"

    def resolve(self, node):
        while "$ref" in node:
            at = self.contract
            for part in node["$ref"].removeprefix("#/").split("/"):
                at = at[part.replace("~1", "/").replace("~0", "~")]
            node = {**at, **{k: v for k, v in node.items() if k != "$ref"}}
        return node

    def named(self, place):
        return {name: self.resolve(p["schema"]) for (where, name), p in self.parameters.items() if where == place}

    def required(self, place):
        return {name for (where, name), p in self.parameters.items() if where == place and p.get("required")}

    def kinds(self):
        """What the path's parameters stand for: (name, the last fixed segment before it)."""
        found, last = {}, ""
        for part in self.path.split("/"):
            if part.startswith("{"):
                found[part.strip("{}")] = last
            else:
                last = part
        return found

    def body(self):
        """Schema of the JSON body, or None."""
        for kind, content in self.content.items():
            if kind == "application/json":
                return self.resolve(content["schema"])
        return None

    def url(self, values):
        return re.sub(r"\{([^}]+)\}", lambda m: urllib.parse.quote(str(values[m[1]]), safe=""), self.path)

    # ---- values that a schema allows ----

    def sample(self, schema, name="", known=None, optional=(), depth=0):
        """A value that fits the schema: required members, those in optional, and known values by member name."""
        schema = self.resolve(schema)
        known = known or {}
        if name in known:
            return copy.deepcopy(known[name])
        if "allOf" in schema:
            whole = {}
            for part in schema["allOf"]:
                whole.update(self.sample(part, name, known, optional, depth + 1))
            return whole
        for word in ("oneOf", "anyOf"):
            if word in schema and "properties" not in schema:
                return self.sample(schema[word][0], name, known, optional, depth + 1)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return schema["enum"][0]
        kinds = schema.get("type", "object")
        kind = kinds if isinstance(kinds, str) else kinds[0]
        if kind == "object":
            wanted = set(schema.get("required", ()))
            members = schema.get("properties", {})
            wanted |= {m for m in members if m in optional}
            if len(wanted) < schema.get("minProperties", 0):
                wanted |= set(list(members)[:schema["minProperties"]])
            return {m: self.sample(members.get(m, {"type": "string"}), m, known, optional, depth + 1)
                    for m in members if m in wanted}
        if kind == "array":
            return [self.sample(schema.get("items", {"type": "string"}), name, known, optional, depth + 1)
                    for _ in range(max(1, schema.get("minItems", 1)))]
        if kind in ("integer", "number"):
            return max(1, schema.get("minimum", 1))
        if kind == "boolean":
            return True
        if kind == "null":
            return None
        return self.text(schema, name)

    def text(self, schema, name):
        by_format = {
            "uuid": "00000000-0000-7000-8000-000000000001", "date": "2000-01-31", "past-date": "2000-01-31", "date-time": "2000-01-31T00:00:00Z",
            "email": "somebody@example.com", "currency": "USD", "uri": "https://example.com/", "slug": "some-thing",
            "cursor": "AAAA", "password": "Some thing", "hostname": "example.com", "ipv4": "127.0.0.1", "ipv6": "::1",
        }
        if "format" in schema:
            return by_format[schema["format"]]
        pattern = schema.get("pattern")
        for text in ("some-thing", "Some thing", "DE", "USD", "12345", "somebody@example.com", "https://example.com/x",
                     "+49 30 1234", "abc", "a" * 32, "0" * 64, "2000-01-31", "123456", "A" * 43, "https://shop.example", "catalog.read", "#1f4fd8",
                     "shop.order.created.v1", "sk_test_some_thing", "whsec_some_thing",
                     "consumer.some_thing"):
            if (len(text) >= schema.get("minLength", 0) and len(text) <= schema.get("maxLength", 1 << 20)
                    and (not pattern or re.search(pattern, text))):
                return text
        if not pattern and schema.get("maxLength", 1) < 3:
            return "x" * schema["maxLength"]
        raise Unknown(f"{self}: no text of t/operations.py fits {name}: {schema}; add one to Operation.text()")

    def member_names(self):
        """Names of all members at any depth of the JSON body."""
        found, seen = set(), []

        def walk(schema):
            schema = self.resolve(schema)
            if schema in seen:
                return
            seen.append(schema)
            for name, part in schema.get("properties", {}).items():
                found.add(name)
                walk(part)
            for part in [schema.get("items"), *schema.get("allOf", ()), *schema.get("anyOf", ()), *schema.get("oneOf", ())]:
                if isinstance(part, dict):
                    walk(part)

        if self.body():
            walk(self.body())
        return found


def operations(contract):
    return [Operation(contract, path, method, item, item[method])
            for path, item in contract["paths"].items() for method in METHODS if method in item]


# ---- a picture of a tenant's data ----

# Counts of what was tried, whether it was refused or not; when a key was used, which the edge tells up to a minute later; and where housekeeping
# notes how far it has come.
VOLATILE = {"shop.api_key_use", "shop.login_attempt", "shop.throttle", "shop.housekeeping", "shop.sealed_renewal"}


def tenant_tables(db):
    return [row["name"] for row in db.execute(
        "SELECT format('%I.%I', n.nspname, c.relname) AS name FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid "
        "JOIN pg_namespace n ON n.oid = c.relnamespace WHERE a.attname = 'tenant_id' AND NOT a.attisdropped "
        "AND c.relkind IN ('r', 'p') AND NOT c.relispartition AND n.nspname NOT IN ('pg_catalog', 'information_schema') "
        "ORDER BY 1")]


class Picture:
    """Rows of a tenant in every table, and its keys in Redis. A table that is added later is in it by itself."""

    def __init__(self, shop, tenant=1, where=None):
        """where: for a table, the condition on the rows that count."""
        self.db, self.redis, self.tenant = shop.db(), shop.redis(), tenant
        self.tables = [t for t in tenant_tables(self.db) if t not in VOLATILE]
        assert len(self.tables) > 20
        self.query = " UNION ALL ".join(
            f"SELECT '{t}' AS place, count(*)::text || ' ' || coalesce(md5(string_agg(md5(x::text), '' ORDER BY "
            f"md5(x::text))), '') AS sum FROM {t} x WHERE tenant_id = {tenant} AND {(where or {}).get(t, 'true')}"
            for t in self.tables)
        self.query += f" UNION ALL SELECT 'shop.tenant', md5(x::text) FROM shop.tenant x WHERE id = {tenant}"

    def close(self):
        self.db.close()
        self.redis.close()

    def settle(self):
        """Waits for what earlier requests left to be done: it is not what anybody's request changes later."""
        wait_for(lambda: self.db.execute("SELECT (api.stock_publish()).body AS done").fetchone()["done"], 60, "sales are published")
        wait_for(lambda: not self.unsaved_carts(), 60, "the write-behind has every cart in PostgreSQL")
        wait_for(self.consumed, 60, "events have reached their consumers")

    def consumed(self):
        """Feeds what is left; the shop's own jobs may have some of it at the moment."""
        self.db.execute("UPDATE event.retry SET next_at = now()")
        self.db.execute("SELECT api.events_feed(1000)")
        return not self.db.execute(
            "SELECT EXISTS (SELECT FROM event.unsent) OR EXISTS (SELECT FROM shop.notification WHERE status = 'queued' "
            "AND lease IS NOT NULL AND next_at > now()) OR EXISTS (SELECT FROM shop.webhook_delivery WHERE status = 'queued' "
            "AND lease IS NOT NULL AND next_at > now()) AS unsent").fetchone()["unsent"]

    def unsaved_carts(self):
        """Owners whose cart in Redis is newer than its row."""
        prefix = "cart:{%d:" % self.tenant
        held = {key[len(prefix):-1]: int(self.redis.hget(key, "v") or 0)
                for key in self.redis.scan_iter(prefix + "*}") if self.redis.type(key) == "hash"}
        kept = {row["owner"]: row["version"] for row in self.db.execute(
            f"SELECT owner, version FROM shop.cart_backup WHERE tenant_id = {self.tenant}")}
        return [owner for owner, version in held.items() if version > kept.get(owner, 0)]

    def sums(self):
        """Number of rows and a checksum for each table, and what Redis holds for each key."""
        self.settle()
        found = {row["place"]: row["sum"] for row in self.db.execute(self.query)}
        found.update(self.keys())
        return found

    def keys(self, marks=None):
        found = {}
        for key in self.redis.scan_iter("*{%d:*" % self.tenant):
            # a hash table's order changes while Redis grows it
            value = {"hash": lambda k: sorted(self.redis.hgetall(k).items()), "string": self.redis.get,
                     "set": lambda k: sorted(self.redis.smembers(k))}.get(self.redis.type(key), self.redis.dump)(key)
            if marks is None or any(m in key or m in str(value) for m in marks):
                found["redis " + key] = str(value)
        return found

    def about(self, marks):
        """The rows and keys that mention one of these texts: those of one person."""
        self.settle()
        found = self.keys(marks)
        condition = " OR ".join(["strpos(x::text, %s) > 0"] * len(marks))
        for table in self.tables:
            rows = self.db.execute(f"SELECT x::text AS row FROM {table} x WHERE tenant_id = {self.tenant} AND ({condition})",
                                   list(marks)).fetchall()
            found[table] = sorted(row["row"] for row in rows)
        return found


def changes(before, after):
    return {place: (before.get(place), after.get(place))
            for place in before.keys() | after.keys() if before.get(place) != after.get(place)}
