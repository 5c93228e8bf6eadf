"""The catalogue through the edge: the contract's parameters, conditional requests, caches, import."""

import json

from shared import shared


def ids(answer):
    assert answer.status_code == 200, answer.text
    return [p["id"] for p in answer.json()["data"]]


def make(staff, name, amount=1000, **more):
    answer = staff.post("/api/v1/products", json={"name": name, "price": {"amount": amount, "currency": "USD"}, **more})
    assert answer.status_code == 201, answer.text
    return answer


def test_life_of_a_product(staff, anyone):
    made = make(staff, "Zlorp Kettle", sku="EDGE-1", stock=3)
    place, product = made.headers["Location"], made.json()

    seen = anyone.get(place)
    assert seen.json() == product and seen.headers["ETag"] == made.headers["ETag"]
    assert anyone.get(place, headers={"If-None-Match": seen.headers["ETag"]}).status_code == 304
    assert product["id"] in ids(anyone.get("/api/v1/products?search=zlorp"))

    assert anyone.patch(place, json={"name": "x"}).status_code == 401
    assert staff.patch(place, json={"name": "x"}).status_code == 428
    assert staff.patch(place, json={"name": "x"}, headers={"If-Match": '"99"'}).status_code == 412
    patched = staff.patch(place, json={"name": "Edge Pot"}, headers={"If-Match": seen.headers["ETag"]})
    assert patched.status_code == 200, patched.text
    # written by whichever worker, seen by all
    assert {anyone.get(place).json()["name"] for _ in range(6)} == {"Edge Pot"}
    assert ids(anyone.get("/api/v1/products?search=zlorp")) == []

    assert staff.put(place, json={"name": "y", "price": {"amount": 1, "currency": "USD"}, "colour": "red"},
                     headers={"If-Match": "*"}).status_code == 422
    by_slug = anyone.get("/api/v1/products/by-slug/zlorp-kettle")
    assert by_slug.status_code == 200 and by_slug.json()["id"] == product["id"]
    assert staff.delete(place, headers={"If-Match": "*"}).status_code == 204
    assert anyone.get(place).status_code == 404
    assert anyone.get(place.replace("/v1", "")).status_code == 404


def test_customers_do_not_write(customer):
    assert customer.post("/api/v1/products", json={"name": "x", "price": {"amount": 1, "currency": "USD"}}).status_code == 403
    assert customer.post("/api/v1/admin/import", json=[]).status_code == 403


def test_lists(staff, anyone):
    made = [make(staff, f"Stack {n}", 100 + n % 2, stock=n).json()["id"] for n in range(5)]
    found, page = [], anyone.get("/api/v1/products?search=stack&sort_by=price&limit=2").json()
    while True:
        found += [p["id"] for p in page["data"]]
        if not page["page"]["has_more"]:
            break
        page = anyone.get("/api/v1/products", params={"search": "stack", "sort_by": "price", "limit": 2, "cursor": page["page"]["next"]}).json()
    assert found == [made[0], made[2], made[4], made[1], made[3]]

    first = anyone.get("/api/v1/products?search=stack&limit=2").json()["page"]["next"]
    stolen = anyone.get("/api/v1/products", params={"limit": 2, "cursor": first})
    assert stolen.status_code == 400 and stolen.json()["code"] == "cursor-mismatch"

    counted = anyone.get("/api/v1/products?search=stack&in_stock=true&count=exact&facets=true&limit=1").json()
    assert counted["page"]["total"] == 4 and counted["facets"]["in_stock"] == 4 and len(counted["data"]) == 1
    assert "total" not in anyone.get("/api/v1/products?search=stack").json()["page"]
    assert isinstance(anyone.get("/api/v1/products?count=estimate").json()["page"]["total"], int)
    assert anyone.get("/api/v1/products?min_rating=4.5&max_price=100").status_code == 200
    for bad in ("limit=0", "limit=101", "sort_by=id", "min_price=-1", "min_price=1.5", "in_stock=maybe", "colour=red", "min_rating=6"):
        assert anyone.get(f"/api/v1/products?{bad}").status_code in (400, 422), bad
    far = anyone.get("/api/v1/products?page=1001&per_page=100")
    assert far.status_code == 400 and far.json()["code"] == "page-too-far"
    assert anyone.get("/api/v1/products/suggest?q=stac").json()["data"]


def test_taxonomy(staff, anyone):
    made = staff.post("/api/v1/categories", json={"name": "Edge things"})
    assert made.status_code == 201, made.text
    product = make(staff, "In a category", category="edge-things").json()
    assert ids(anyone.get("/api/v1/products?category=edge-things")) == [product["id"]]
    renamed = staff.put(made.headers["Location"], json={"name": "Edgy things"}, headers={"If-Match": made.headers["ETag"]})
    assert renamed.status_code == 200, renamed.text
    assert ids(anyone.get("/api/v1/products?category=edgy-things")) == [product["id"]]
    assert anyone.get("/api/v1/categories/edgy-things").json()["id"] == made.json()["id"]
    assert made.json()["id"] in [c["id"] for c in anyone.get("/api/v1/categories").json()["data"]]
    assert staff.delete(made.headers["Location"], headers={"If-Match": "*"}).status_code == 409

    brand = staff.post("/api/v1/brands", json={"name": "Edge & Co"})
    assert brand.status_code == 201 and anyone.get("/api/v1/brands/edge-co").json()["name"] == "Edge & Co"
    assert staff.delete(brand.headers["Location"], headers={"If-Match": "*"}).status_code == 204


def test_import(staff, anyone):
    report = staff.post("/api/v1/admin/import", json={"products": [{"id": 900, "title": "Imported Jug", "price": 9.99, "stock": 2}, {"id": 901}]})
    assert report.status_code == 200, report.text
    assert (report.json()["imported"], report.json()["errors"]) == (1, [{"row": 2, "field": "title", "message": "a title or name is required"}])
    assert anyone.get("/api/v1/products?search=jug").json()["data"][0]["price"]["amount"] == 999

    report = staff.post("/api/v1/admin/import/csv", content="title,price,sku\nCsv Jug,3,JUG\n", headers={"Content-Type": "text/csv"})
    assert report.status_code == 200 and report.json()["imported"] == 1, report.text
    assert len(staff.get("/api/v1/admin/export?limit=2").json()["data"]) == 2


def test_dummyjson(shop, anyone):
    acme, body = shop.staff(tenant="acme"), shared("catalogue", "dummyjson", "products.json").read_text(encoding="utf-8")
    shop.rows("UPDATE shop.tenant SET currency = 'USD' WHERE slug = 'acme' RETURNING 1")
    report = acme.post("/api/v1/admin/import", content=body, headers={"Content-Type": "application/json"})
    assert report.status_code == 200, report.text
    assert (report.json()["imported"], report.json()["failed"], report.json()["reviews"]) == (194, 0, 582)
    page = shop.edge(tenant="acme").get("/api/v1/products?count=exact&search=mascara").json()
    assert page["page"]["total"] >= 1 and page["data"][0]["name"] == "Essence Mascara Lash Princess"
    product = page["data"][0]["id"]
    assert len(shop.edge(tenant="acme").get(f"/api/v1/products/{product}/reviews").json()["data"]) == 3
    assert anyone.get(f"/api/v1/products/{product}").status_code == 404
    assert json.loads(body)[0]["title"] not in anyone.get("/api/v1/products?limit=100").text


def test_an_external_id_is_of_one_product(shop, staff):
    """Said before the index says it: a problem with a pointer, no line in error.log."""
    money = {"amount": 100, "currency": "USD"}
    one, other = (staff.post("/api/v1/products", json={"name": f"Outside {n}", "sku": f"outside-{n}", "price": money,
                                                       "external_id": f"outside-{n}"}).json() for n in (1, 2))
    for answer in (
            staff.patch(f"/api/v1/products/{other['id']}", json={"external_id": "outside-1"}, headers={"If-Match": '"1"'}),
            staff.post("/api/v1/products", json={"name": "Third", "sku": "outside-3", "price": money, "external_id": "outside-1"})):
        assert (answer.status_code, answer.json()["code"]) == (409, "external-id-taken"), answer.text
        assert answer.json()["errors"][0]["pointer"] == "/external_id"
    assert not [line for line in shop.log_lines() if "23505" in line]
    assert shop.value("SELECT external_id FROM shop.product WHERE tenant_id = 1 AND id = %s", other["id"]) == "outside-2"
    assert one["external_id"] == "outside-1"


def test_a_foreign_catalogue_comes_beside_the_demo_s(shop, staff, anyone):
    """Nothing of the demo is overwritten: its products have ids of their own."""
    body = shared("catalogue", "dummyjson", "products.json").read_bytes()
    before = shop.value("SELECT count(*) FROM shop.product WHERE tenant_id = 1 AND deleted_at IS NULL")
    name = anyone.get("/api/v1/products/1").json()["name"]
    report = staff.post("/api/v1/admin/import", content=body, headers={"Content-Type": "application/json"}).json()
    assert (report["imported"], report["updated"], report["failed"]) == (194, 0, 0), report
    assert shop.value("SELECT count(*) FROM shop.product WHERE tenant_id = 1 AND deleted_at IS NULL") == before + 194
    assert anyone.get("/api/v1/products/1").json()["name"] == name
    assert anyone.get("/api/v1/products?search=mascara").json()["data"][0]["name"] == "Essence Mascara Lash Princess"
