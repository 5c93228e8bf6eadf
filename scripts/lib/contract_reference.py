"""The human API reference, in Markdown, made from the bundle."""

import json

import contract_bundle

AUTH = {"public": "nobody has to log in",
        "optional": "guests and customers",
        "customer": "customers",
        "staff": "staff",
        "service": "services"}
ENVELOPE = """\
Errors are `application/problem+json` (RFC 9457) with `code`, `detail` and `correlation_id`; 422 has `errors`, one of
`pointer`, `code`, `message` for each fault. Every route may answer 400 (malformed), 404, 405, 413, 415, 422, 429 and 503 beside what it lists.
Each `/api/v1/…` is reachable as `/api/…` too, answered with `Deprecation`."""


class Writer:
    def __init__(self, document, out):
        self.document = document
        self.out = out

    def line(self, text=""):
        print(text.rstrip(), file=self.out)

    def deref(self, value):
        return contract_bundle.deref(self.document, value) or {}

    def run(self):
        info = self.document.get("info", {})
        self.line(f"# {info.get('title', 'API')}: reference")
        self.line()
        self.line("Made by `scripts/contract reference` from `api/`: do not "
                  "edit.")
        self.line()
        self.line(ENVELOPE)
        areas = {}
        for path, item in self.document["paths"].items():
            for method in contract_bundle.METHODS:
                op = item.get(method)
                if isinstance(op, dict):
                    area = (op.get("tags") or ["other"])[0]
                    areas.setdefault(area, []).append((path, item, method, op))
        self.contents(areas)
        for area in sorted(areas):
            self.line()
            self.line(f"## {area[:1].upper()}{area[1:]}")
            for entry in areas[area]:
                self.operation(*entry)
        self.schemas()

    def contents(self, areas):
        self.line()
        self.line("| route | | who |")
        self.line("| --- | --- | --- |")
        for area in sorted(areas):
            for path, _, method, op in areas[area]:
                auth = op.get("x-commerce", {}).get("auth", "")
                self.line(f"| [`{method.upper()} {path}`](#{op['operationId']})"
                          f" | {cell(op.get('summary', ''))} | {auth} |")

    def operation(self, path, item, method, op):
        commerce = op.get("x-commerce", {})
        self.line()
        self.line(f"<a id=\"{op['operationId']}\"></a>")
        self.line(f"### `{method.upper()} {path}`")
        self.line()
        self.line(op.get("summary", "").rstrip(".") + ".")
        if op.get("description"):
            self.line()
            self.line(op["description"])
        self.line()
        self.line(self.facts(item, op, commerce))
        params = self.parameters(item, op)
        self.parameter_table(params)
        body = self.deref(op.get("requestBody", {}))
        example = self.body(body)
        self.replies(op)
        self.curl(path, method, commerce, params, body, example)

    def facts(self, item, op, commerce):
        auth = str(commerce.get("auth", ""))
        role, _, permission = auth.partition(":")
        facts = ["For " + AUTH.get(role, role)
                 + (f" with the permission `{permission}`" if permission else "")]
        if op.get("deprecated"):
            facts.append("deprecated")
        aliases = list(item.get("x-aliases", [])) + list(op.get("x-aliases", []))
        if aliases:
            facts.append("also under " + ", ".join(f"`{a}`" for a in aliases))
        limit = commerce.get("limit")
        if limit:
            limits = limit if isinstance(limit, list) else [limit]
            facts.append("limited by " + ", ".join(f"`{x}`" for x in limits))
        key = commerce.get("idempotency", "none")
        if key != "none":
            facts.append(f"`Idempotency-Key` {key}")
        if commerce.get("conditional") == "etag":
            facts.append("`If-None-Match` answers 304")
        if commerce.get("conditional") == "if-match":
            facts.append("`If-Match` required")
        if "cache" in commerce:
            facts.append(f"cached {commerce['cache'].get('ttl')} s at the edge")
        return "; ".join(facts) + "."

    def parameters(self, item, op):
        params = {}
        for raw in list(item.get("parameters", [])) + \
                list(op.get("parameters", [])):
            param = self.deref(raw)
            # the facts say it
            if param.get("name") != "Idempotency-Key":
                params[(param.get("in"), param.get("name"))] = param
        return list(params.values())

    def parameter_table(self, params):
        if not params:
            return
        self.line()
        self.line("| parameter | in | type | |")
        self.line("| --- | --- | --- | --- |")
        for param in params:
            schema = param.get("schema", {})
            text = self.limits(schema)
            if param.get("required") and param.get("in") != "path":
                text = ["required"] + text
            if param.get("description"):
                text.insert(0, param["description"])
            self.line(f"| `{param['name']}` | {param['in']} | "
                      f"{self.type_of(schema)} | {cell('; '.join(text))} |")

    def body(self, body):
        content = body.get("content", {})
        if not content:
            return None
        media, first = next(iter(content.items()))
        self.line()
        self.line(f"Body: `{media}`"
                  + (", required" if body.get("required") else "") + ".")
        schema = first.get("schema")
        if schema is None:
            return first.get("example")
        self.members(schema)
        return first.get("example", self.example(schema))

    def members(self, schema):
        rows = self.rows(schema)
        if not rows:
            return
        self.line()
        self.line("| member | type | |")
        self.line("| --- | --- | --- |")
        for name, child, required in rows:
            target = self.deref(child)
            text = [target["description"]] if target.get("description") else []
            if required:
                text.append("required")
            text += self.limits(child)
            self.line(f"| `{name}` | {self.type_of(child)} | "
                      f"{cell('; '.join(text))} |")

    def rows(self, schema):
        schema = self.deref(schema)
        rows = [(name, child, name in schema.get("required", []))
                for name, child in schema.get("properties", {}).items()]
        for word in ("allOf", "anyOf", "oneOf"):
            for part in schema.get(word, []):
                rows += [row for row in self.rows(part)
                         if row[0] not in [seen[0] for seen in rows]]
        return rows

    def replies(self, op):
        self.line()
        self.line("| answer | | body |")
        self.line("| --- | --- | --- |")
        for status, raw in sorted(op.get("responses", {}).items()):
            if status.endswith("XX"):
                continue        # the same everywhere: the introduction says it
            reply = self.deref(raw)
            content = reply.get("content", {})
            kind = ""
            if content:
                media, first = next(iter(content.items()))
                kind = self.type_of(first["schema"]) if "schema" in first \
                    else f"`{media}`"
            self.line(f"| {status} | {cell(reply.get('description', ''))} | "
                      f"{kind} |")

    def curl(self, path, method, commerce, params, body, example):
        url = path
        query = []
        for param in params:
            value = param.get("example", self.example(param.get("schema", {})))
            if param["in"] == "path":
                url = url.replace("{%s}" % param["name"], plain(value))
            elif param["in"] == "query" and param.get("required"):
                query.append(f"{param['name']}={plain(value)}")
        parts = ["curl -s"]
        if method != "get":
            parts.append(f"-X {method.upper()}")
        parts.append(f"\"$COMMERCE_URL{url}{'?' if query else ''}"
                     f"{'&'.join(query)}\"")
        role = str(commerce.get("auth", "")).split(":", maxsplit=1)[0]
        if role in ("customer", "staff", "service"):
            parts.append('-H "Authorization: Bearer $TOKEN"')
        if commerce.get("idempotency") == "required":
            parts.append('-H "Idempotency-Key: $(uuidgen)"')
        if commerce.get("conditional") == "if-match":
            parts.append("-H 'If-Match: \"1\"'")
        if body.get("content"):
            media = next(iter(body["content"]))
            parts.append(f"-H 'Content-Type: {media}'")
            text = example if isinstance(example, str) else \
                json.dumps(example, ensure_ascii=False)
            text = text.replace("'", "'\\''")
            parts.append(f"-d '{text}'")
        self.line()
        self.line("```sh")
        self.line(" ".join(parts))
        self.line("```")

    def type_of(self, schema):
        ref = schema.get("$ref") if isinstance(schema, dict) else None
        if ref and ref.startswith("#/components/schemas/"):
            name = ref.rsplit("/", 1)[-1]
            return f"[{name}](#schema-{name})"
        schema = self.deref(schema)
        types = schema.get("type", "")
        types = types if isinstance(types, list) else [types]
        text = " or ".join(str(t) for t in types if t)
        if "array" in types and isinstance(schema.get("items"), dict):
            text = text.replace("array", f"list of "
                                f"{self.type_of(schema['items']) or 'values'}")
        for word in ("oneOf", "anyOf"):
            if word in schema and not text:
                text = " or ".join(self.type_of(part)
                                   for part in schema[word])
        if schema.get("format"):
            text += f" ({schema['format']})"
        return text

    def limits(self, schema):
        schema = self.deref(schema)
        texts = []
        names = (("minimum", "≥ {}"), ("maximum", "≤ {}"),
                 ("exclusiveMinimum", "> {}"), ("exclusiveMaximum", "< {}"),
                 ("minLength", "at least {} characters"),
                 ("maxLength", "at most {} characters"),
                 ("minItems", "at least {} elements"),
                 ("maxItems", "at most {} elements"),
                 ("pattern", "matches `{}`"))
        for key, text in names:
            if key in schema:
                texts.append(text.format(schema[key]))
        if "enum" in schema:
            texts.append("one of " + ", ".join(f"`{v}`" for v in schema["enum"]))
        if "default" in schema:
            texts.append(f"default `{json.dumps(schema['default'])}`")
        return texts

    def example(self, schema, depth=0):
        schema = self.deref(schema)
        for key in ("example", "const", "default"):
            if key in schema:
                return schema[key]
        for key in ("examples", "enum"):
            if schema.get(key):
                return schema[key][0]
        for word in ("allOf",):
            if word in schema and depth < 6:
                merged = {}
                for part in list(schema[word]) + [
                        {k: v for k, v in schema.items() if k != word}]:
                    value = self.example(part, depth + 1)
                    if isinstance(value, dict):
                        merged.update(value)
                return merged
        for word in ("oneOf", "anyOf"):
            if schema.get(word) and depth < 6:
                return self.example(schema[word][0], depth + 1)
        kind = schema.get("type", "object" if "properties" in schema else "")
        kind = kind[0] if isinstance(kind, list) else kind
        if kind == "object" and depth < 6:
            required = schema.get("required", [])
            members = schema.get("properties", {})
            chosen = [n for n in members if n in required] or list(members)[:2]
            return {n: self.example(members[n], depth + 1) for n in chosen}
        if kind == "array":
            return [self.example(schema.get("items", {}), depth + 1)] \
                if depth < 6 else []
        if kind in ("integer", "number"):
            return max(1, schema.get("minimum", 1))
        if kind == "boolean":
            return True
        return {"email": "test@example.com", "date": "2026-01-31",
                "date-time": "2026-01-31T12:00:00Z", "past-date": "1990-01-31", "currency": "EUR",
                "uuid": "0190163d-8694-739b-aea5-966c26f8ad91",
                "uri": "https://example.com/", "slug": "red-shoes",
                }.get(schema.get("format"), "text")

    def schemas(self):
        self.line()
        self.line("## Schemas")
        for name, schema in sorted(self.document["components"]
                                   ["schemas"].items()):
            self.line()
            self.line(f"<a id=\"schema-{name}\"></a>")
            self.line(f"### {name}")
            if schema.get("description"):
                self.line()
                self.line(schema["description"])
            if self.rows(schema):
                self.members(schema)
            else:
                text = "; ".join([self.type_of(schema)] + self.limits(schema))
                self.line()
                self.line(text or "Any value.")


def cell(text):
    return " ".join(str(text).split()).replace("|", "\\|")


def plain(value):
    if isinstance(value, list):
        return ",".join(plain(v) for v in value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def write(document, out):
    Writer(document, out).run()
