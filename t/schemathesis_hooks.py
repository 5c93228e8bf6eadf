"""Loaded by schemathesis, in an environment of its own: who asks for each operation, and ids of things that exist.

COMMERCE_TEST_WORLD names a JSON file: {operationId: {"headers": {name: value}, "path": [{name: value}], "bodies": [body]}}.
"""

import hashlib
import json
import os

import schemathesis
from hypothesis import strategies as st
from schemathesis.core.parameters import ParameterLocation

with open(os.environ["COMMERCE_TEST_WORLD"], encoding="utf-8") as f:
    WORLD = json.load(f)

KEY = "Idempotency-Key"

# formats of the contract that schemathesis does not know
for name, strategy in {
        "slug": st.from_regex(r"[a-z0-9]{1,20}(-[a-z0-9]{1,10})?", fullmatch=True),
        "currency": st.sampled_from(["USD", "EUR", "JPY"]),
        "past-date": st.dates().map(str),
        "password": st.text("abcdefghXYZ019 .!", min_size=12, max_size=40),
        "cursor": st.from_regex(r"[A-Za-z0-9_-]{8,60}", fullmatch=True)}.items():
    schemathesis.openapi.format(name, strategy)


def number(case, salt):
    """The same for the same case: what replaces a value does not make a run another."""
    text = repr((salt, case.path_parameters, case.query, case.body))
    return int.from_bytes(hashlib.sha256(text.encode(errors="surrogatepass")).digest()[:4], "big")


@schemathesis.hook
def map_case(context, case):
    known = WORLD[context.operation.definition.raw["operationId"]]
    negative = case.meta is not None and case.meta.is_negative_at(ParameterLocation.PATH)
    if known["path"] and not negative and number(case, "path") % 4:
        case.path_parameters = dict(known["path"][number(case, "which") % len(known["path"])])
    keyed = KEY in (case.headers or {}) and not (case.meta and case.meta.is_negative_at(ParameterLocation.HEADER))
    if keyed and number(case, "key") % 4:
        # a made-up key is often one that came with another request before
        case.headers[KEY] = case.id
    return case


@schemathesis.hook
def before_call(context, case, kwargs):
    known = WORLD[case.operation.definition.raw["operationId"]]
    for name, value in known["headers"].items():
        if name not in (case.headers or {}) and value:
            case.headers[name] = value


@schemathesis.hook
def filter_failure(context, failure, case, response):
    """What OpenAPI cannot say: an answer cut by `fields` or widened by `expand`; every text is a text/csv."""
    if failure.title == "Response violates schema" and {"fields", "expand"} & set(case.query or {}):
        return False
    return not (failure.title == "Schema-violating request accepted" and case.media_type == "text/csv"
                and not case.meta.is_negative_at(ParameterLocation.QUERY))
