"""What every list understands, by the contract alone: sort, fields, expand, pages to and fro, one spelling for text."""

import re

import pytest

from test_catalogue import ids, make

PRODUCTS = "/api/v1/products"


@pytest.fixture(scope="module")
def listed(shop):
    """Nine products for sale that a search for "conv" finds: names in the order of their making, three prices."""
    staff = shop.edge("admin@example.com")
    return [make(staff, f"Conv item {n}", 100 * (n % 3 + 1), brand=f"Brand {n % 2}", sku=f"CONV-{n}").json()["id"] for n in range(9)]


def links(answer):
    return dict(re.findall(r'<([^>]*)>; rel="(\w+)"', answer.headers.get("Link", "")))


def test_sort(anyone, listed):
    expected = [listed[n] for n in (2, 5, 8, 1, 4, 7, 0, 3, 6)]
    assert ids(anyone.get(f"{PRODUCTS}?search=conv&sort=-price,name")) == expected
    assert ids(anyone.get(f"{PRODUCTS}?search=conv&sort=-price&sort=name")) == expected
    assert ids(anyone.get(f"{PRODUCTS}?search=conv&sort=price,-name")) == expected[::-1]
    assert anyone.get(f"{PRODUCTS}?sort=name&sort_by=price").json()["code"] == "sort-twice"


@pytest.mark.parametrize("query,place", [
    ("sort=colour", "sort/0"), ("sort=price,colour", "sort/1"), ("sort=price&sort=price", "sort"), ("sort=", "sort"),
    ("sort=price,name,stock,created_at", "sort"), ("fields=id,secret", "fields/1"), ("expand=category.parent.parent", "expand/0"),
])
def test_unknown_names(anyone, query, place):
    answer = anyone.get(f"{PRODUCTS}?{query}")
    assert answer.status_code == 400, answer.text
    assert answer.json()["code"] == "unknown-name" and answer.json()["errors"][0]["pointer"] == place
    if place.startswith(("sort/", "fields/", "expand/")):
        known = {"sort": '"-price"', "fields": '"rating"', "expand": '"category.parent"'}[place.split("/")[0]]
        assert known in answer.json()["errors"][0]["message"]


def test_unknown_parameters_name_the_known(anyone):
    answer = anyone.get(f"{PRODUCTS}?colour=red")
    assert answer.status_code == 400 and answer.json()["code"] == "unknown-parameter"
    assert "min_price" in answer.json()["detail"] and "fields" in answer.json()["detail"]


def test_pages_to_and_fro(anyone, listed):
    pages, at = [], f"{PRODUCTS}?search=conv&sort=name&limit=4&fields=id"
    while at:
        pages.append(anyone.get(at))
        assert pages[-1].status_code == 200, pages[-1].text
        at = next((url for url, rel in links(pages[-1]).items() if rel == "next"), None)
    assert [i for page in pages for i in ids(page)] == listed
    assert [page.json()["page"]["has_more"] for page in pages] == [True, True, False]
    assert pages[0].json()["page"]["prev"] is None
    for earlier, later in zip(pages, pages[1:]):
        back = anyone.get(next(url for url, rel in links(later).items() if rel == "prev"))
        assert ids(back) == ids(earlier)
        assert (back.json()["page"]["prev"] is None) == (earlier is pages[0])
    # the size and what is shown may change on the way, the order may not
    cursor = pages[0].json()["page"]["next"]
    assert ids(anyone.get(f"{PRODUCTS}?search=conv&sort=name&limit=2&cursor={cursor}")) == listed[4:6]
    assert anyone.get(f"{PRODUCTS}?search=conv&sort=-name&limit=4&cursor={cursor}").json()["code"] == "cursor-mismatch"


def test_page_numbers(anyone, listed):
    page = anyone.get(f"{PRODUCTS}?search=conv&sort=name&page=2&per_page=3&count=exact")
    assert ids(page) == listed[3:6] and page.json()["page"]["total"] == 9
    following = anyone.get(next(url for url, rel in links(page).items() if rel == "next"))
    assert ids(following) == listed[6:]
    for far in ("page=102&per_page=100", "page=10002&per_page=1", "page=10000000&per_page=100"):
        refused = anyone.get(f"{PRODUCTS}?{far}")
        assert refused.status_code == 400 and refused.json()["code"] == "page-too-far", far
    cursor = page.json()["page"]["next"]
    assert anyone.get(f"{PRODUCTS}?search=conv&sort=name&page=2&per_page=3&cursor={cursor}").json()["code"] == "page-and-cursor"


def test_filters(anyone, listed):
    assert sorted(ids(anyone.get(f"{PRODUCTS}?search=conv&brand=brand-0,Brand%201"))) == listed
    assert sorted(ids(anyone.get(f"{PRODUCTS}?search=conv&brand=brand-0&brand=brand-1"))) == listed
    assert sorted(ids(anyone.get(f"{PRODUCTS}?search=conv&brand=brand-1,nobody"))) == listed[1::2]
    many = anyone.get(f"{PRODUCTS}?" + "&".join(f"brand=b{n}" for n in range(21)))
    assert many.status_code == 422 and many.json()["errors"][0]["code"] == "max-items"
    assert ids(anyone.get(f"{PRODUCTS}?search=conv&created_after=2100-01-01T00:00:00Z")) == []
    assert len(ids(anyone.get(f"{PRODUCTS}?search=conv&created_before=2100-01-01T00:00:00Z"))) == 9
    assert anyone.get(f"{PRODUCTS}?created_after=yesterday").status_code == 422


def test_fields(anyone, listed):
    whole = anyone.get(f"{PRODUCTS}?search=conv&sort=name")
    some = anyone.get(f"{PRODUCTS}?search=conv&sort=name&fields=name,price")
    assert some.json()["data"] == [{"name": p["name"], "price": p["price"]} for p in whole.json()["data"]]
    assert some.json()["page"]["limit"] == 20
    assert anyone.get(f"{PRODUCTS}?search=conv&sort=name&fields=price&fields=name").json()["data"] == some.json()["data"]

    product = anyone.get(f"{PRODUCTS}/{listed[0]}")
    part = anyone.get(f"{PRODUCTS}/{listed[0]}?fields=id,sku")
    assert part.json() == {"id": listed[0], "sku": "CONV-0"}
    # a part has a tag of its own, from the cache too
    assert part.headers["ETag"] != product.headers["ETag"]
    again = anyone.get(f"{PRODUCTS}/{listed[0]}?fields=id,sku", headers={"If-None-Match": part.headers["ETag"]})
    assert again.status_code == 304
    assert anyone.get(f"{PRODUCTS}/{listed[0]}", headers={"If-None-Match": part.headers["ETag"]}).status_code == 200


def test_fields_of_private_lists(customer):
    answer = customer.get("/api/v1/orders?fields=id,status")
    assert answer.status_code == 200 and all(set(o) == {"id", "status"} for o in answer.json()["data"])
    assert customer.get("/api/v1/orders?fields=password").json()["code"] == "unknown-name"


def test_expand(staff, anyone):
    above = staff.post("/api/v1/categories", json={"name": "Conventions above"}).json()
    below = staff.post("/api/v1/categories", json={"name": "Conventions", "parent_id": above["id"]}).json()
    product = make(staff, "Expandable thing", category="conventions", brand="Expander").json()
    page = anyone.get(f"{PRODUCTS}?category=conventions&expand=category.parent,brand&fields=id,category,brand")
    assert page.status_code == 200, page.text
    shown = page.json()["data"][0]
    assert set(shown) == {"id", "category", "brand"} and shown["id"] == product["id"]
    assert shown["category"]["path"] == below["path"] and shown["category"]["parent"]["slug"] == above["slug"]
    assert shown["brand"]["slug"] == "expander" and page.json()["page"]["limit"] == 20
    single = anyone.get(f"{PRODUCTS}/{product['id']}?expand=category")
    assert single.json()["category"]["parent_id"] == above["id"] and single.json()["brand"] == "Expander"
    assert single.headers["ETag"] != anyone.get(f"{PRODUCTS}/{product['id']}").headers["ETag"]
    assert anyone.get(f"{PRODUCTS}/999999999?expand=category").status_code == 404


def test_text_has_one_spelling(staff, anyone):
    made = make(staff, "Cafetie\u0300re re\u0301gle\u0301e", tags=["e\u0301mail"]).json()
    assert made["name"] == "Cafeti\u00e8re r\u00e9gl\u00e9e" and made["tags"] == ["\u00e9mail"]
    found = anyone.get(PRODUCTS, params={"search": "cafetie\u0300re"})
    assert made["id"] in ids(found)
    refused = staff.post(PRODUCTS, json={"name": "a" + "\u0301" * 31, "price": {"amount": 1, "currency": "USD"}})
    assert (refused.status_code, refused.json()["code"], refused.json()["pointer"]) == (400, "too-many-marks", "/name")
    assert anyone.get(PRODUCTS, params={"search": "a" + "\u0301" * 31}).json()["errors"][0]["code"] == "too-many-marks"


MINIMAL = {"Prefer": "respond-async, return=minimal; foo=1"}


def test_prefer_minimal(staff, anyone):
    body = {"name": "Minimal thing", "price": {"amount": 100, "currency": "USD"}}
    made = staff.post(PRODUCTS, json=body, headers={**MINIMAL, "Idempotency-Key": "minimal-1"})
    assert (made.status_code, made.content) == (201, b"") and made.headers["Preference-Applied"] == "return=minimal"
    place = made.headers["Location"]
    product = anyone.get(place)
    assert product.json()["name"] == "Minimal thing" and product.headers["ETag"] == made.headers["ETag"]
    # what is kept under the key is the whole
    again = staff.post(PRODUCTS, json=body, headers={"Idempotency-Key": "minimal-1"})
    assert again.headers["Idempotent-Replayed"] == "true" and again.json()["id"] == product.json()["id"]

    patched = staff.patch(place, json={"name": "Less"}, headers={**MINIMAL, "If-Match": "*"})
    assert (patched.status_code, patched.content) == (204, b"") and patched.headers["Preference-Applied"] == "return=minimal"
    assert "Content-Type" not in patched.headers and patched.headers["ETag"] == anyone.get(place).headers["ETag"]
    whole = staff.patch(place, json={"name": "More"}, headers={"Prefer": "return=representation", "If-Match": "*"})
    assert whole.status_code == 200 and "Preference-Applied" not in whole.headers

    # nothing else is there to tell what was made, or what is wrong
    token = anyone.post("/api/v1/auth/login", json={"email": "test@example.com", "password": "password"}, headers=MINIMAL)
    assert token.status_code == 200 and token.json()["token"] and "Preference-Applied" not in token.headers
    assert anyone.get(place, headers=MINIMAL).json()["name"] == "More"
    wrong = staff.patch(place, json={"nmae": "x"}, headers={**MINIMAL, "If-Match": "*"})
    assert wrong.status_code == 422 and wrong.json()["code"] == "validation-failed"


def test_vary(customer, anyone):
    def vary(client, place):
        return set(client.get(place).headers["Vary"].split(", "))

    # Origin: of any answer that CORS may allow
    assert vary(anyone, PRODUCTS) == {"X-API-Key", "Origin"}
    assert vary(customer, "/api/v1/orders") == vary(anyone, "/api/v1/orders") == {"Authorization", "Origin"}
    assert vary(anyone, "/api/v1/cart") == {"Authorization", "X-Cart-Token", "Origin"}


def test_defaults_of_a_body(shop, probes):
    with shop.configured(**probes):
        edge = shop.edge()

        def echo(path="/api/v1/probe/echo", **request):
            answer = edge.post(path, **request)
            assert answer.status_code == 200, answer.text
            return answer.json()

        assert echo() == echo(json={}) == {"text": "nothing", "count": 3, "list": None}
        assert echo(json={"count": None, "text": ""}) == {"text": "", "count": None, "list": None}
        assert echo(json={"list": [{}, {"a": 5, "b": "e\u0301"}]})["list"] == [{"a": 1}, {"a": 5, "b": "\u00e9"}]
        whole = "/api/v1/probe/echo-whole"
        assert echo(whole, json={"list": [{"b": "x"}]})["whole"] == {"text": "nothing", "count": 3, "list": [{"a": 1, "b": "x"}]}
        assert echo(whole)["whole"] is None

        # the key is of what was sent: with the default or without is not the same request
        key = {"Idempotency-Key": "defaults-1"}
        assert edge.post("/api/v1/probe/echo", json={}, headers=key).status_code == 200
        assert edge.post("/api/v1/probe/echo", json={}, headers=key).headers["Idempotent-Replayed"] == "true"
        assert edge.post("/api/v1/probe/echo", json={"count": 3}, headers=key).json()["code"] == "idempotency-key-reused"
