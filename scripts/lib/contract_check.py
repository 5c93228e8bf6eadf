"""The faults of a contract that need no server, each with file and line.

The module's loader has the last word (`nginx -t`); what is found here is found
earlier, in the YAML, and beside the SQL functions that the contract calls.
"""

import glob
import os
import re
import sys

import contract_bundle

COMMERCE = {"auth", "tenant", "lane", "class", "limit", "idempotency", "cache",
            "conditional", "body", "body_limit", "max_members", "max_depth",
            "ids", "call", "native", "args", "steps", "owner", "flag",
            "gate"}
STEP = {"call", "script", "native", "lane", "args", "cache", "gate", "reply",
        "optional", "amend", "when", "key", "miss", "down", "backup"}
KEYWORDS = {
    "type", "enum", "const", "default", "minimum", "maximum",
    "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength",
    "maxLength", "pattern", "format", "properties", "required",
    "patternProperties", "additionalProperties", "minProperties",
    "maxProperties", "items", "prefixItems", "minItems", "maxItems",
    "uniqueItems", "allOf", "anyOf", "oneOf", "not", "$ref", "title",
    "description", "example", "examples", "deprecated", "readOnly",
    "writeOnly", "externalDocs", "discriminator", "$comment"}
FUNCTION = re.compile(
    r"CREATE\s+(?:OR\s+REPLACE\s+)?FUNCTION\s+api\.(\w+)\s*\(", re.I)


class Checker:
    def __init__(self, document):
        self.document = document
        self.count = 0
        self.operations = {}

    def fault(self, text, mark, place):
        self.count += 1
        print(contract_bundle.Fault(text, mark, place), file=sys.stderr)

    def run(self, functions):
        for path, item in self.document["paths"].items():
            for method in contract_bundle.METHODS:
                if isinstance(item.get(method), dict):
                    self.operation(path, item, method, functions)
        for name, schema in self.document["components"]["schemas"].items():
            self.schema(schema, f"components.schemas.{name}")

    def operation(self, path, item, method, functions):
        op = item[method]
        place = f"{path} {method}"
        mark = item.at(method)
        name = op.get("operationId")
        if not name:
            self.fault("operationId is missing", mark, place)
        elif name in self.operations:
            self.fault(f"operationId {name} is taken by "
                       f"{self.operations[name]}", mark, place)
        self.operations[name] = place
        for key in ("summary", "responses", "tags"):
            if key not in op:
                self.fault(f"{key} is missing: the reference needs it", mark,
                           place)
        commerce = op.get("x-commerce")
        if not isinstance(commerce, dict):
            self.fault("x-commerce is missing", mark, place)
            return
        if "auth" not in commerce:
            self.fault("auth is missing and has no default", commerce.mark,
                       place)
        for key in commerce:
            if key not in COMMERCE and not key.startswith("x-"):
                self.fault(f"unknown key {key} in x-commerce",
                           commerce.at(key), place)
        inputs = self.inputs(path, item, op, commerce, place)
        self.calls(commerce, inputs, functions, place)

    def inputs(self, path, item, op, commerce, place):
        """The names that a call takes by default."""
        names, in_path, seen = [], set(), set()
        for raw in list(op.get("parameters", [])) + \
                list(item.get("parameters", [])):
            param = contract_bundle.deref(self.document, raw)
            key = (param.get("in"), str(param.get("name")).lower())
            if key in seen:
                continue
            seen.add(key)
            if param.get("x-list") not in ("fields", "expand") \
                    and not self.is_key(param, commerce):
                names.append(param.get("x-name", param.get("name")))
            if param.get("in") == "path":
                in_path.add(param.get("name"))
            self.schema(param.get("schema", {}), place)
        template = set(re.findall(r"{([^}]*)}", path))
        for name in sorted(template - in_path):
            self.fault(f"path parameter {{{name}}} is not declared",
                       op.mark, place)
        for name in sorted(in_path - template):
            self.fault(f"there is no {{{name}}} in the path", op.mark, place)
        body = contract_bundle.deref(self.document, op.get("requestBody", {}))
        for media in (body or {}).get("content", {}).values():
            if "schema" in media:
                self.schema(media["schema"], place)
                if commerce.get("body", "spread") == "spread":
                    names += self.members(media["schema"])
        if commerce.get("body", "spread") != "spread":
            names.append(commerce["body"])
        return list(dict.fromkeys(names + list(commerce.get("ids", []))))

    @staticmethod
    def is_key(param, commerce):
        """The header that the edge itself reads, and no call gets."""
        return (commerce.get("idempotency", "none") != "none"
                and param.get("in") == "header" and "x-name" not in param
                and str(param.get("name")).lower() == "idempotency-key")

    def members(self, schema):
        schema = contract_bundle.deref(self.document, schema) or {}
        names = list(schema.get("properties", {}))
        for word in ("allOf", "anyOf", "oneOf"):
            for part in schema.get(word, []):
                names += self.members(part)
        return names

    def calls(self, commerce, inputs, functions, place):
        steps = commerce.get("steps", [commerce])
        for step in steps:
            if not isinstance(step, dict):
                continue
            if step is not commerce:
                for key in step:
                    if key not in STEP:
                        self.fault(f"unknown key {key} in a step",
                                   step.at(key), place)
            for call in (step, step.get("miss"), step.get("down")):
                if isinstance(call, dict) and "call" in call:
                    self.call(call, inputs, functions, place)

    def call(self, call, inputs, functions, place):
        name = str(call["call"])
        if functions is None or not name.startswith("api."):
            return
        signatures = functions.get(name[4:])
        if signatures is None:
            self.fault(f"sql/api/ defines no {name}()", call.at("call"), place)
            return
        given = [str(arg).split("=")[0].lstrip("$")
                 for arg in call.get("args", inputs)]
        for names, needed in signatures:
            if set(given) <= set(names) and set(needed) <= set(given):
                return
        names, needed = signatures[0]
        wrong = sorted(set(given) - set(names)) or \
            sorted(set(needed) - set(given))
        kind = "has no parameter" if set(given) - set(names) else "also needs"
        self.fault(f"{name}({', '.join(names)}) {kind} {', '.join(wrong)}",
                   call.at("call"), place)

    def schema(self, schema, place):
        if not isinstance(schema, contract_bundle.Map):
            return
        for key, value in schema.items():
            if key not in KEYWORDS and not key.startswith("x-"):
                self.fault(f"unsupported schema keyword {key}",
                           schema.at(key), place)
            elif key in ("properties", "patternProperties"):
                for name, child in value.items():
                    self.schema(child, f"{place}.{name}")
            elif key in ("allOf", "anyOf", "oneOf", "prefixItems"):
                for child in value:
                    self.schema(child, place)
            elif key in ("items", "additionalProperties", "not"):
                self.schema(value, place)


def arguments(text, start):
    """The parameters of a signature: split at commas outside of brackets."""
    depth, part, parts = 1, "", []
    for char in text[start:]:
        depth += (char in "([") - (char in ")]")
        if depth == 0:
            break
        if char == "," and depth == 1:
            parts.append(part)
            part = ""
        else:
            part += char
    parts.append(part)
    names, needed = [], []
    for part in (part.strip() for part in parts):
        words = part.split()
        if not words or words[0].upper() == "OUT":
            continue
        name = words[1] if words[0].upper() in ("IN", "INOUT", "VARIADIC") \
            else words[0]
        name = name.strip('"')
        names.append(name)
        if not re.search(r"\bDEFAULT\b|=", part, re.I):
            needed.append(name)
    return names, needed


def sql_functions(folder):
    files = glob.glob(os.path.join(folder, "*.sql"))
    if not files:
        return None
    functions = {}
    for path in files:
        with open(path, encoding="utf-8") as stream:
            text = re.sub(r"--[^\n]*", "", stream.read())
        for match in FUNCTION.finditer(text):
            functions.setdefault(match[1], []).append(
                arguments(text, match.end()))
    return functions


def run(document):
    root = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
    checker = Checker(document)
    functions = sql_functions(os.path.join(root, "sql", "api"))
    checker.run(functions)
    calls = "" if functions else "; sql/api/ is empty, calls are not checked"
    print(f"scripts/contract: {len(checker.operations)} operations, "
          f"{checker.count} faults{calls}")
    return 1 if checker.count else 0
