"""Reads the contract's YAML files and makes one document of them.

openapi.yaml lists its parts under `x-include` (file names or globs, relative
to it).  A part is a mapping of paths ("/api/v1/…": path item), a mapping of
schemas (Name: schema), or a fragment with `paths` and `components` of its
own.  Schemas land in components.schemas, where any file refers to them as
`#/components/schemas/Name`.  `$ref: file.yaml#/Name` is followed too.

YAML is read by the rules of YAML 1.2: only true/false are booleans, dates stay
strings, duplicate keys are faults.
"""

import glob
import os
import re

import yaml


class Fault(Exception):
    """Something an author of a contract has to change."""

    def __init__(self, text, mark=None, place=None):
        super().__init__(text)
        self.text = text
        self.mark = mark
        self.place = place

    def __str__(self):
        where = f"{self.mark[0]}:{self.mark[1]}: " if self.mark else ""
        place = f"{self.place}: " if self.place else ""
        return f"{where}{place}{self.text}"


class Map(dict):
    """A mapping that knows where it and each of its keys stand."""

    mark = None

    def __init__(self, *args):
        super().__init__(*args)
        self.marks = {}

    def at(self, key=None):
        return self.marks.get(key, self.mark)


class Seq(list):
    mark = None


INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)\Z")
FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z")
METHODS = ("get", "post", "put", "patch", "delete")


def scalar(node, file):
    text = node.value
    if node.style in ("'", '"', "|", ">"):
        return text
    if text in ("null", "Null", "NULL", "~", ""):
        return None
    if text in ("true", "True", "TRUE"):
        return True
    if text in ("false", "False", "FALSE"):
        return False
    if INTEGER.match(text):
        return int(text)
    if FLOAT.match(text):
        return float(text)
    return text


def convert(node, file):
    mark = (file, node.start_mark.line + 1)
    if isinstance(node, yaml.ScalarNode):
        return scalar(node, file)
    if isinstance(node, yaml.SequenceNode):
        out = Seq(convert(child, file) for child in node.value)
        out.mark = mark
        return out
    out = Map()
    out.mark = mark
    own = set()
    for key_node, value_node in node.value:
        line = (file, key_node.start_mark.line + 1)
        if not isinstance(key_node, yaml.ScalarNode):
            raise Fault("a key must be a plain word", line)
        key = key_node.value
        if key == "<<":
            merged = convert(value_node, file)
            for part in merged if isinstance(merged, list) else [merged]:
                for name, value in part.items():
                    out.setdefault(name, value)
                    out.marks.setdefault(name, part.at(name))
            continue
        if key in own:
            raise Fault(f'duplicate key "{key}", first on line '
                        f"{out.marks[key][1]}", line)
        own.add(key)
        out[key] = convert(value_node, file)
        out.marks[key] = line
    return out


def read(path):
    name = os.path.relpath(path)
    try:
        with open(path, encoding="utf-8") as stream:
            node = yaml.compose(stream, Loader=yaml.CSafeLoader)
    except OSError as error:
        raise Fault(f"cannot read {name}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise Fault(f"{name} is not UTF-8") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise Fault(f"YAML: {error.problem}",
                    (name, mark.line + 1) if mark else (name, 1)) from error
    if node is None:
        out = Map()
        out.mark = (name, 1)
        return out
    return convert(node, name)


class Bundle:
    """One document under construction."""

    def __init__(self, path):
        self.base = os.path.dirname(os.path.abspath(path))
        self.files = {}
        self.adopted = {}
        self.document = self.load(os.path.abspath(path))
        if not isinstance(self.document, Map):
            raise Fault("a contract must be a mapping", (path, 1))
        self.paths = self.section(self.document, "paths")
        self.components = self.section(self.document, "components")
        self.schemas = self.section(self.components, "schemas")

    @staticmethod
    def section(parent, name):
        value = parent.get(name)
        if value is None:
            value = parent[name] = Map()
            value.mark = parent.at(name)
        if not isinstance(value, Map):
            raise Fault(f"{name} must be a mapping", parent.at(name))
        return value

    def load(self, path):
        if path not in self.files:
            self.files[path] = read(path)
        return self.files[path]

    def run(self):
        includes = self.document.pop("x-include", [])
        if not isinstance(includes, list):
            raise Fault("x-include must be a list of file names",
                        self.document.at("x-include"))
        for pattern in includes:
            found = sorted(glob.glob(os.path.join(self.base, pattern)))
            if not found and not glob.has_magic(pattern):
                raise Fault(f"x-include: there is no {pattern} in "
                            f"{os.path.relpath(self.base)}/", includes.mark)
            for path in found:
                self.include(path)
        for name, item in list(self.paths.items()):
            self.paths[name] = self.path_item(name, item)
        for name, schema in list(self.schemas.items()):
            self.refs(schema, self.file_of(schema), f"components.schemas.{name}")
        for kind, entries in self.components.items():
            if kind != "schemas" and isinstance(entries, Map):
                for name, value in entries.items():
                    self.refs(value, self.file_of(value),
                              f"components.{kind}.{name}")
        self.local()
        for name, item in self.paths.items():
            for method in METHODS:
                if isinstance(item.get(method), Map):
                    self.listing(item[method], f"{name} {method}")
                    self.keyed(item[method], method)
                    self.problems(item[method])
                    self.once(item, item[method])
        return self.document

    def problems(self, op):
        """What every operation may answer: problem documents, and 304 where the client may ask for news."""
        responses, mark = op.get("responses"), op.mark
        if not isinstance(responses, Map) or "Problem" not in self.schemas:
            return
        shared = self.section(self.components, "responses")
        for status, name, description in (("4XX", "Refused", "The request's fault"), ("5XX", "Failed", "The shop's fault, for now")):
            if name not in shared:
                problem = self.mapping(mark, **{"$ref": "#/components/schemas/Problem"})
                shared[name] = self.mapping(mark, description=description, content=self.mapping(
                    mark, **{"application/problem+json": self.mapping(mark, schema=problem)}))
            responses.setdefault(status, self.mapping(mark, **{"$ref": f"#/components/responses/{name}"}))
        commerce = op.get("x-commerce")
        if isinstance(commerce, Map) and (commerce.get("conditional") == "etag" or "cache" in commerce):
            responses.setdefault("304", self.mapping(mark, description="What the client has is what there is"))

    @staticmethod
    def keyed(op, method):
        """A command of POST or PATCH takes an Idempotency-Key, unless it says otherwise: the other methods are idempotent."""
        commerce = op.get("x-commerce")
        if (not isinstance(commerce, Map) or "idempotency" in commerce or method not in ("post", "patch")
                or commerce.get("tenant") == "none"):
            return
        steps = commerce.get("steps", [commerce])
        if not isinstance(steps, list) or not all(isinstance(step, Map) for step in steps):
            return
        steps = [step for step in steps if not step.get("amend") or "native" in step]
        reply = next((step for step in steps if step.get("reply")), steps[-1] if steps else {})
        # by a call, and by one that writes: kept is what a call answers, in the transaction of its effect
        if "call" in reply and reply.get("lane", commerce.get("lane")) in ("write", "slow"):
            commerce["idempotency"] = "optional"

    def once(self, item, op):
        """x-commerce.idempotency is shown to clients: the header Idempotency-Key, and the one by which a repetition is known."""
        commerce, mark = op.get("x-commerce"), op.mark
        word = commerce.get("idempotency") if isinstance(commerce, Map) else None
        if word not in ("optional", "required"):
            return
        given = [deref(self.document, p) for p in [*item.get("parameters", []), *op.get("parameters", [])]]
        if not any(p.get("in") == "header" and str(p.get("name")).lower() == "idempotency-key" for p in given):
            op["parameters"] = [*op.get("parameters", []), self.key_parameter(word == "required", mark)]
        for status, reply in (op.get("responses") or {}).items():
            # these say "try again": they are not kept
            if status not in ("409", "429") and not status.startswith("5") and isinstance(reply, Map):
                op["responses"][status] = self.repeatable(reply, mark)

    def key_parameter(self, required, mark):
        parameters = self.section(self.components, "parameters")
        name = "IdempotencyKeyRequired" if required else "IdempotencyKey"
        if name not in parameters:
            parameters[name] = self.mapping(mark, **{
                "name": "Idempotency-Key", "in": "header", "required": required,
                "description": "A value of your own, the same for each retry: within 24 hours the same request under it has one "
                "effect and one answer",
                "schema": self.mapping(mark, type="string", minLength=1, maxLength=255, pattern="^[!-~]+$")})
        return self.mapping(mark, **{"$ref": f"#/components/parameters/{name}"})

    def repeatable(self, reply, mark):
        """The reply with the header that tells a repetition; a shared one has a second form, for those that do not repeat."""
        headers = self.section(self.components, "headers")
        headers.setdefault("IdempotentReplayed", self.mapping(
            mark, description="The answer of the first request under this Idempotency-Key",
            schema=self.mapping(mark, type="string", const="true")))
        if "Idempotent-Replayed" in deref(self.document, reply).get("headers", {}):
            return reply
        if "$ref" not in reply:
            return self.with_header(reply, mark)
        name = reply["$ref"].rsplit("/", 1)[-1]
        shared = self.section(self.components, "responses")
        shared.setdefault(f"{name}OrReplayed", self.with_header(deref(self.document, reply), mark))
        return self.mapping(mark, **{"$ref": f"#/components/responses/{name}OrReplayed"})

    def with_header(self, reply, mark):
        ref = self.mapping(mark, **{"$ref": "#/components/headers/IdempotentReplayed"})
        return self.mapping(mark, **{**reply, "headers": self.mapping(mark, **{"Idempotent-Replayed": ref, **reply.get("headers", {})})})

    def file_of(self, value):
        mark = getattr(value, "mark", None)
        return os.path.abspath(mark[0]) if mark else None

    def include(self, path):
        part = self.load(path)
        if not isinstance(part, Map):
            raise Fault("must be a mapping of paths or of schemas",
                        (os.path.relpath(path), 1))
        if "paths" in part or "components" in part:
            for key in part:
                if key not in ("paths", "components") and not key.startswith("x-"):
                    raise Fault(f'a part has "paths" and "components" only, '
                                f'not "{key}"', part.at(key))
            self.merge(self.paths, self.section(part, "paths"), "path")
            for kind, entries in self.section(part, "components").items():
                self.merge(self.section(self.components, kind), entries, kind)
            return
        for key, value in part.items():
            if key.startswith("x-"):
                continue
            one = Map({key: value})
            one.mark, one.marks = part.mark, {key: part.at(key)}
            if key.startswith("/"):
                self.merge(self.paths, one, "path")
            else:
                self.merge(self.schemas, one, "schema")

    def merge(self, into, part, what):
        for key, value in (part or {}).items():
            if key in into:
                first = into.at(key)
                raise Fault(f'{what} "{key}" is defined twice, first in '
                            f"{first[0]}:{first[1]}", part.at(key))
            into[key] = value
            into.marks[key] = part.at(key)

    def path_item(self, name, item):
        if not isinstance(item, Map):
            raise Fault("a path item must be a mapping", self.paths.at(name), name)
        if "$ref" in item:
            ref = item["$ref"]
            item = self.follow(ref, self.file_of(item), item.at("$ref"))
            if not isinstance(item, Map):
                raise Fault(f"{ref} is no path item", self.paths.at(name), name)
            self.paths.marks[name] = item.mark
        self.refs(item, self.file_of(item), f"paths.{name}")
        return item

    def follow(self, ref, file, mark):
        path, _, pointer = str(ref).partition("#")
        target = os.path.join(os.path.dirname(file), path) if path else file
        value = self.load(os.path.normpath(target))
        for step in pointer.split("/")[1:] if pointer else []:
            step = step.replace("~1", "/").replace("~0", "~")
            if not isinstance(value, dict) or step not in value:
                raise Fault(f"$ref {ref}: there is no such place", mark)
            value = value[step]
        return value

    def refs(self, value, file, place):
        """Turns references to files into references to components."""
        if isinstance(value, list):
            for child in value:
                self.refs(child, file, place)
            return
        if not isinstance(value, Map):
            return
        ref = value.get("$ref")
        if isinstance(ref, str) and not ref.startswith("#"):
            value["$ref"] = self.adopt(ref, file, value.at("$ref"))
        for key, child in value.items():
            if key not in ("example", "examples", "enum", "const", "default"):
                self.refs(child, self.file_of(child) or file, f"{place}.{key}")

    def adopt(self, ref, file, mark):
        """The schema behind a file reference becomes a component."""
        path, _, pointer = ref.partition("#")
        target = os.path.normpath(os.path.join(os.path.dirname(file), path))
        key = (target, pointer)
        if key not in self.adopted:
            name = pointer.rsplit("/", 1)[-1] if pointer else \
                os.path.splitext(os.path.basename(target))[0]
            schema = self.follow(ref, file, mark)
            known = self.schemas.get(name)
            if known is not None and known is not schema:
                raise Fault(f'$ref {ref}: another schema is called "{name}" '
                            "already", mark)
            self.adopted[key] = name
            if known is None:
                self.schemas[name] = schema
                self.schemas.marks[name] = mark
                self.refs(schema, target, f"components.schemas.{name}")
        return "#/components/schemas/" + self.adopted[key]

    def listing(self, op, place):
        """x-commerce.list becomes the parameters sort, fields and expand, and a step that expands."""
        commerce = op.get("x-commerce")
        spec = commerce.get("list") if isinstance(commerce, Map) else None
        if spec is None:
            return
        mark = commerce.at("list")
        if not isinstance(spec, Map) or set(spec) - {"sort", "fields", "expand"}:
            raise Fault("list has sort, fields and expand only", mark, place)
        del commerce["list"]
        if "sort" in spec:
            names = self.names(spec["sort"], mark, place)
            self.parameter(op, "sort", "Names by which to sort, the first counts most; `-` before one turns it round. "
                           "Equals follow by id", [word for name in names for word in (name, "-" + name)], 3, mark)
        if "fields" in spec:
            names = self.shown(op, mark, place) if spec["fields"] is True else self.names(spec["fields"], mark, place)
            self.parameter(op, "fields", "Show these members only", names, len(names), mark)
        if "expand" in spec:
            expand = spec["expand"]
            if not isinstance(expand, Map) or set(expand) != {"call", "names"}:
                raise Fault("expand needs call and names", mark, place)
            names = self.names(expand["names"], mark, place)
            if any(name.count(".") > 1 for name in names):
                raise Fault("expand goes two levels deep at most", mark, place)
            self.parameter(op, "expand", "Show what these refer to in place of the reference", names, len(names), mark)
            self.expanding(commerce, expand["call"], mark)

    @staticmethod
    def names(value, mark, place):
        if not isinstance(value, list) or not value or not all(isinstance(name, str) for name in value):
            raise Fault("list takes lists of names", mark, place)
        return list(value)

    def shown(self, op, mark, place):
        """The members that the operation's answer shows: of the elements of `data`, or its own."""
        schema = deref(self.document, op.get("responses", {}).get("200", {}))
        schema = deref(self.document, schema.get("content", {}).get("application/json", {}).get("schema", {}))
        data = deref(self.document, self.members(schema).get("data", {}))
        if "items" in data:
            schema = deref(self.document, data["items"])
        names = list(self.members(schema))
        if not names:
            raise Fault("fields: true needs an answer whose schema names its members", mark, place)
        return names

    def members(self, schema):
        found = dict(schema.get("properties", {}))
        for part in schema.get("allOf", []):
            found = {**self.members(deref(self.document, part)), **found}
        return found

    @staticmethod
    def mapping(mark, **members):
        out = Map(members)
        out.mark = mark
        return out

    def parameter(self, op, name, description, names, most, mark):
        schema = self.mapping(mark, type="array", minItems=1, maxItems=most, uniqueItems=True,
                              items=self.mapping(mark, type="string", enum=names))
        # listed once by commas: what a client of OpenAPI sends
        param = self.mapping(mark, **{"name": name, "in": "query", "description": description, "style": "form",
                                      "explode": False, "x-list": name, "schema": schema})
        op["parameters"] = [*op.get("parameters", []), param]

    def expanding(self, commerce, call, mark):
        if "steps" not in commerce:
            step = self.mapping(mark, **{key: commerce.pop(key) for key in ("call", "args") if key in commerce})
            commerce["steps"] = [step]
        steps = commerce["steps"]
        if not any(step.get("reply") for step in steps):
            steps[-1]["reply"] = True
        steps.append(self.mapping(mark, call=call, lane="read", when="expand", args=["reply=$reply", "expand"], amend=True))

    def local(self):
        """Every reference must lead somewhere within the bundle."""
        todo = [self.document]
        while todo:
            value = todo.pop()
            if isinstance(value, list):
                todo.extend(value)
                continue
            if not isinstance(value, Map):
                continue
            ref = value.get("$ref")
            if isinstance(ref, str):
                if resolve(self.document, ref) is None:
                    raise Fault(f"$ref {ref}: there is no such component",
                                value.at("$ref"))
            todo.extend(child for key, child in value.items()
                        if key not in ("example", "examples", "default"))


def resolve(document, ref):
    value = document
    for step in ref[1:].split("/")[1:]:
        step = step.replace("~1", "/").replace("~0", "~")
        if isinstance(value, list) and step.isdigit() and int(step) < len(value):
            value = value[int(step)]
        elif isinstance(value, dict) and step in value:
            value = value[step]
        else:
            return None
    return value


def deref(document, value):
    for _ in range(32):
        if not isinstance(value, dict) or "$ref" not in value:
            return value
        value = resolve(document, value["$ref"])
    raise Fault(f"$ref chain without end at {value}")


def load(path):
    return Bundle(path).run()
