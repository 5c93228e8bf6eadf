"""The catalogue as SQL alone, as the edge's role: lists, search, writes, import, isolation, stock on the reading side."""

import json
import os
import re
import subprocess
import tempfile
import threading

import psycopg
import pytest

import stack as stack_module
from shared import shared

STAFF = "staff catalog.read catalog.write inventory.write"


class Problem(Exception):
    def __init__(self, error):
        super().__init__(error.diag.message_primary)
        self.status = int(error.sqlstate[2:]) if error.sqlstate.startswith("SH") else error.sqlstate
        self.body = json.loads(error.diag.message_detail) if error.sqlstate.startswith("SH") else {}


class Reply:
    def __init__(self, status, body, headers, edge):
        self.status, self.headers, self.edge = status, headers or {}, edge or {}
        self.body = json.loads(body) if body else None
        self.page = self.edge.get("page")

    def __getitem__(self, name):
        return self.body[name]

    @property
    def ids(self):
        return [item["id"] for item in self.body["data"]]


class Shop:
    def __init__(self, url):
        self.url = url
        self.eyes = psycopg.connect(url, autocommit=True)
        self.edge = self.connect()

    def connect(self):
        edge = psycopg.connect(self.url)
        edge.execute("SET SESSION AUTHORIZATION commerce_edge")
        edge.commit()
        return edge

    def rows(self, query, *parameters):
        return self.eyes.execute(query, parameters or None).fetchall()

    def value(self, query, *parameters):
        return self.rows(query, *parameters)[0][0]

    def call(self, function, tenant=1, roles=STAFF, edge=None, **arguments):
        names = ", ".join(f'"{name}" => %({name})s' for name in arguments)
        values = {n: json.dumps(v, ensure_ascii=False) if isinstance(v, (dict, list)) else str(v) if isinstance(v, (int, float)) and not
                  isinstance(v, bool) else v for n, v in arguments.items()}
        edge = edge or self.edge
        try:
            with edge.transaction():
                edge.execute("SELECT api.begin_request(%s::bigint, NULL, %s, 'test', NULL)", (tenant, roles))
                return Reply(*edge.execute(f"SELECT * FROM api.{function}({names}) r", values).fetchone())
        except psycopg.Error as error:
            raise Problem(error) from None

    def refused(self, function, status, code=None, **arguments):
        with pytest.raises(Problem) as refused:
            self.call(function, **arguments)
        assert refused.value.status == status, refused.value
        if code:
            assert refused.value.body["code"] == code
        return refused.value.body

    def make(self, name, price=1000, tenant=1, currency="USD", **more):
        return self.call("product_create", tenant=tenant, product={
            "name": name, "price": {"amount": price, "currency": currency}, **more})

    def walk(self, **arguments):
        """All ids of a list, page by page."""
        ids, cursor = [], None
        while True:
            page = self.call("product_list", cursor=cursor, **arguments)
            ids += page.ids
            cursor = page.page["next"]
            assert (cursor is not None) == page.page["has_more"]
            if cursor is None:
                return ids


    def walk_back(self, **arguments):
        """The same from the last page to the first: each page is the one that led forward."""
        pages, cursor = [], None
        while True:
            pages.append(self.call("product_list", cursor=cursor, **arguments))
            cursor = pages[-1].page["next"]
            if cursor is None:
                break
        ids = pages[-1].ids
        for earlier, later in zip(reversed(pages[:-1]), reversed(pages)):
            back = self.call("product_list", cursor=later.page["prev"], **arguments)
            assert back.ids == earlier.ids and back.page["next"] and (back.page["prev"] is None) == (earlier is pages[0])
            forward = self.call("product_list", cursor=back.page["next"], **arguments)
            assert forward.ids == later.ids
            ids = back.ids + ids
        assert pages[0].page["prev"] is None
        return ids


@pytest.fixture(scope="module")
def shop():
    stack = stack_module.Stack(tempfile.mkdtemp(prefix="nginx-commerce-sql."))
    stack.run("init", f"PORT={stack.port}", f"PG_PORT={stack.pg_port}", f"REDIS_PORT={stack.redis_port}", "PROFILE=test")
    try:
        stack.run("start", "postgres")
        stack.run("database")
        url = stack.environment("COMMERCE_PGURL")
        stack.run("--url", url, "--verify", script="scripts/migrate")
        shop = Shop(url)
        shop.stack = stack
        shop.eyes.execute("INSERT INTO shop.tenant (id, slug, name, currency) VALUES (1, 'demo', 'Demo', 'USD'), "
                          "(2, 'acme', 'Acme', 'EUR'), (3, 'globex', 'Globex', 'JPY'), (4, 'import', 'Import', 'USD')")
        yield shop
        shop.edge.close()
        shop.eyes.close()
    finally:
        stack.wipe()


@pytest.fixture(autouse=True)
def sound(shop):
    """The reading side says what the truth says, after every test."""
    yield
    assert shop.rows("""
        SELECT s.tenant_id, s.variant_id FROM shop.stock s
          LEFT JOIN shop.stock_movement m ON (m.tenant_id, m.variant_id, m.location_id) = (s.tenant_id, s.variant_id, s.location_id)
         GROUP BY s.tenant_id, s.variant_id, s.location_id HAVING s.on_hand <> coalesce(sum(m.delta), 0)""") == []
    assert shop.rows("""
        SELECT l.tenant_id, l.product_id FROM shop.product_stock l
         WHERE l.stock <> (SELECT coalesce(sum(greatest(s.on_hand - s.reserved, 0)), 0) FROM shop.stock s
                            WHERE s.tenant_id = l.tenant_id AND s.product_id = l.product_id)""") == []
    assert shop.rows("""
        SELECT p.tenant_id, p.id FROM shop.product p LEFT JOIN shop.product_card c ON (c.tenant_id, c.product_id) = (p.tenant_id, p.id)
         WHERE (c.product_id IS NOT NULL) <> (p.deleted_at IS NULL AND p.status = 'active')""") == []


def test_isolation(shop):
    mine = shop.make("Isolated Teapot", slug="teapot", sku="TEA-1", tenant=1)["id"]
    theirs = shop.make("Isolated Teapot", slug="teapot", sku="TEA-1", tenant=2, currency="EUR")["id"]

    assert shop.call("product_get", id=mine)["sku"] == "TEA-1"
    shop.refused("product_get", 404, id=mine, tenant=2)
    shop.refused("product_get", 404, id=mine, tenant=None)
    shop.refused("product_delete", 404, id=mine, if_match="*", tenant=2)
    assert shop.call("product_get_by_slug", slug="teapot", tenant=2)["id"] == theirs
    assert shop.call("product_list", search="isolated", tenant=2).ids == [theirs]
    assert shop.call("product_list", tenant=None).ids == []
    assert shop.call("category_list", tenant=None)["data"] == []

    tables = [r[0] for r in shop.rows("SELECT c.oid::regclass::text FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid "
                                      "WHERE a.attname = 'tenant_id' AND c.relkind = 'r' AND c.relrowsecurity "
                                      "AND c.relnamespace = 'shop'::regnamespace")]
    assert "shop.product" in tables and "shop.stock" in tables
    owner = psycopg.connect(shop.url)
    owner.execute("SET ROLE commerce_owner")
    for table in tables:
        assert owner.execute(f"SELECT count(*) FROM {table}").fetchone()[0] == 0, f"{table} without a tenant"
    owner.execute("SELECT set_config('commerce.tenant_id', '2', true)")
    assert owner.execute("SELECT array_agg(DISTINCT tenant_id) FROM shop.product").fetchone()[0] == [2]
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        owner.execute("INSERT INTO shop.brand (tenant_id, slug, name) VALUES (1, 'x', 'x')")
    owner.close()
    for query in ("SELECT * FROM shop.product", "SELECT domain.tenant_id()", "CREATE TEMPORARY TABLE t (i int)"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege), shop.edge.transaction():
            shop.edge.execute(query)


def test_writing(shop):
    made = shop.make("Crème Brûlée Set", 2599, brand="Élan", tags=["dessert"], stock=7, sku="CREME", attributes={"pieces": 2},
                     images=[{"url": "https://example.com/a.jpg", "alt": "Front"}])
    product = made["id"]
    assert made.status == 201 and made.headers["Location"] == f"/api/v1/products/{product}"
    assert (made["slug"], made["brand"], made["stock"], made["price"]) == (
        "creme-brulee-set", "Élan", 7, {"amount": 2599, "currency": "USD"})
    assert made.edge["invalidate"] == ["catalog", f"product:{product}"]
    assert made["variants"][0]["id"] == made["default_variant_id"]

    shop.refused("product_patch", 428, "if-match-missing", id=product, if_match=None, patch={"name": "x"})
    assert shop.refused("product_patch", 412, id=product, if_match='"99"', patch={"name": "x"})["current_version"] == 1
    shop.refused("product_patch", 403, id=product, if_match="*", patch={"name": "x"}, roles="customer")

    patched = shop.call("product_patch", id=product, if_match=made.headers["ETag"], patch={
        "name": "Dessert Set", "slug": "dessert-set", "attributes": {"colour": "white"}, "sale_price": {"amount": 1999, "currency": "USD"}})
    assert patched["version"] == 2 and patched["attributes"] == {"pieces": 2, "colour": "white"}
    assert patched["sale_price"]["amount"] == 1999 and patched["stock"] == 7 and patched["sku"] == "CREME"
    assert patched["default_variant_id"] == made["default_variant_id"] and patched["images"] == made["images"]

    moved = shop.call("product_get_by_slug", slug="creme-brulee-set")
    assert moved.status == 308 and moved.headers["Location"] == "/api/v1/products/by-slug/dessert-set"

    assert shop.call("product_patch", id=product, if_match="*", patch={"sale_price": None, "attributes": {"pieces": None}}
                     )["attributes"] == {"colour": "white"}
    shop.refused("product_patch", 422, id=product, if_match="*", patch={"sale_price": {"amount": 9999, "currency": "USD"}})
    shop.refused("product_patch", 422, id=product, if_match="*", patch={"price": {"amount": 100, "currency": "EUR"}})
    shop.refused("product_patch", 422, id=product, if_match="*", patch={"category": "no-such"})

    other = shop.make("Other")["id"]
    shop.refused("product_patch", 409, "slug-taken", id=other, if_match="*", patch={"slug": "dessert-set"})
    assert shop.refused("product_patch", 409, "sku-taken", id=other, if_match="*", patch={"sku": "CREME"})["errors"][0]["pointer"] == "/sku"

    draft = shop.call("product_patch", id=other, if_match="*", patch={"status": "draft"})
    assert draft["status"] == "draft"
    shop.refused("product_get", 404, id=other)
    assert shop.call("product_admin_get", id=other)["status"] == "draft"

    replaced = shop.call("product_replace", id=product, if_match="*", product={
        "name": "Sizes", "price": {"amount": 500, "currency": "USD"},
        "variants": [{"sku": "CREME", "price": {"amount": 500, "currency": "USD"}},
                     {"sku": "CREME-L", "name": "Large", "price": {"amount": 700, "currency": "USD"}, "stock": 4}]})
    assert [v["sku"] for v in replaced["variants"]] == ["CREME", "CREME-L"]
    assert replaced["variants"][0]["id"] == made["default_variant_id"] and replaced["stock"] == 11
    assert replaced["tags"] == [] and replaced["brand"] is None
    shop.refused("product_patch", 422, "variants-required", id=product, if_match="*", patch={"price": {"amount": 1, "currency": "USD"}})
    assert shop.call("product_patch", id=product, if_match="*", patch={"name": "Sized"})["variants"][1]["price"]["amount"] == 700

    assert shop.call("product_delete", id=product, if_match="*").status == 204
    shop.refused("product_get", 404, id=product)
    assert shop.value("SELECT deleted_at IS NOT NULL FROM shop.product WHERE tenant_id = 1 AND id = %s", product), "the row stays"
    assert shop.make("Again", sku="CREME", slug="dessert-set").status == 201

    types = [r[0] for r in shop.rows("SELECT type FROM event.outbox WHERE topic = 'product-events' AND aggregate_id = %s ORDER BY id",
                                     str(product))]
    assert types == ["ProductCreated"] + ["ProductUpdated"] * 4 + ["ProductDeleted"]
    assert [r[0] for r in shop.rows("SELECT price_amount FROM shop.price_history WHERE variant_id = %s ORDER BY id",
                                    made["default_variant_id"])] == [2599, 2599, 2599, 500]


def test_taxonomy(shop):
    home = shop.call("category_create", category={"name": "Home"})["id"]
    lamps = shop.call("category_create", category={"name": "Lamps", "parent_id": home})
    desk = shop.call("category_create", category={"name": "Desk lamps", "parent_id": lamps["id"]})
    assert desk["path"] == [home, lamps["id"], desk["id"]]
    product = shop.make("Anglepoise", category="desk-lamps")
    assert product["category"]["name"] == "Desk lamps"

    assert shop.call("product_list", category=["home"]).ids == [product["id"]]
    assert shop.call("product_list", category=[str(home)]).ids == [product["id"]]
    assert shop.call("product_list", category=["no-such"]).ids == []

    shop.refused("category_replace", 422, id=home, if_match="*", category={"name": "Home", "parent_id": desk["id"]})
    shop.refused("category_create", 409, category={"name": "Home"})
    shop.refused("category_delete", 409, id=home, if_match="*")
    office = shop.call("category_create", category={"name": "Office"})["id"]
    moved = shop.call("category_replace", id=lamps["id"], if_match=lamps.headers["ETag"], category={"name": "Lights", "parent_id": office})
    assert moved["path"] == [office, lamps["id"]] and moved["slug"] == "lights"
    assert shop.call("category_get", category="desk-lamps")["path"] == [office, lamps["id"], desk["id"]]
    assert shop.call("product_list", category=["home"]).ids == [] and shop.call("product_list", category=["office"]).ids == [product["id"]]

    brand = shop.call("brand_create", brand={"name": "Lumière"})
    shop.call("product_patch", id=product["id"], if_match="*", patch={"brand": "Lumière"})
    shop.call("brand_replace", id=brand["id"], if_match="*", brand={"name": "Lumen"})
    assert shop.call("product_get", id=product["id"])["brand"] == "Lumen"
    assert shop.call("product_list", brand=["lumen"]).body["data"][0]["brand"] == "Lumen"
    shop.refused("brand_delete", 409, id=brand["id"], if_match="*")
    assert shop.call("brand_list")["data"]


@pytest.fixture(scope="module")
def catalogue(shop):
    """60 products with few different keys, so that only the id tells many apart."""
    for n in range(60):
        shop.make(f"Item {'abc'[n % 3]}", 100 * (n % 4), tenant=3, currency="JPY", stock=n % 5, sku=f"I{n}")
    shop.eyes.execute("ANALYZE")
    return 3


@pytest.mark.parametrize("sort_by", ["price", "name", "created_at", "stock", "popularity"])
@pytest.mark.parametrize("sort_dir", ["asc", "desc"])
@pytest.mark.parametrize("filters", [{}, {"in_stock": True}, {"in_stock": False}, {"min_price": 100, "max_price": 200},
                                     {"search": "item"}, {"created_after": "2000-01-01T00:00:00Z", "created_before": "2100-01-01T00:00:00Z"}])
def test_lists(shop, catalogue, sort_by, sort_dir, filters):
    key = {"price": "c.price", "name": "c.name", "created_at": "c.created_at", "stock": "s.stock", "popularity": "c.popularity"}[sort_by]
    where = {"in_stock": f"s.in_stock = {filters.get('in_stock')}", "min_price": "c.price BETWEEN 100 AND 200",
             "search": "true", "created_after": "true"}.get(next(iter(filters), "search"))
    expected = [r[0] for r in shop.rows(
        f"SELECT c.product_id FROM shop.product_card c JOIN shop.product_stock s USING (tenant_id, product_id) "
        f"WHERE c.tenant_id = 3 AND {where} ORDER BY {key} {sort_dir}, c.product_id {sort_dir}")]
    assert len(expected) >= 12
    arguments = dict(sort_by=sort_by, sort_dir=sort_dir, limit=7, tenant=catalogue, **filters)
    assert shop.walk(**arguments) == expected
    assert shop.walk_back(**arguments) == expected
    assert shop.call("product_list", page=2, per_page=10, **{**arguments, "limit": 20}).ids == expected[10:20]
    assert shop.call("product_count", tenant=catalogue, **filters)["total"] == len(expected)


@pytest.mark.parametrize("sort", ["-price,name", "price,-name,-stock", "name,-price", "-stock,popularity", "-relevance,price"])
@pytest.mark.parametrize("filters", [{}, {"search": "item"}, {"in_stock": True}])
def test_lists_by_several_keys(shop, catalogue, sort, filters):
    names = sort.split(",")
    keys = {"price": "c.price", "name": "c.name", "stock": "s.stock", "popularity": "c.popularity",
            "relevance": "ts_rank('{0.05,0.2,0.5,1}', c.search, domain.search_query('item'))" if filters.get("search") else "c.popularity"}
    order = [(keys[n.lstrip("-")], "DESC" if n[0] == "-" else "ASC") for n in names] + [("c.product_id", "DESC" if sort[0] == "-" else "ASC")]
    expected = [r[0] for r in shop.rows(
        "SELECT c.product_id FROM shop.product_card c JOIN shop.product_stock s USING (tenant_id, product_id) "
        f"WHERE c.tenant_id = 3 AND {'s.in_stock' if 'in_stock' in filters else 'true'} ORDER BY "
        + ", ".join(" ".join(o) for o in order))]
    arguments = dict(sort=names, limit=7, tenant=catalogue, **filters)
    assert len(expected) >= 12
    assert shop.walk(**arguments) == expected
    assert shop.walk_back(**arguments) == expected
    assert shop.call("product_list", page=2, per_page=10, **{**arguments, "limit": 20}).ids == expected[10:20]


def test_page_goes_on_by_cursor(shop, catalogue):
    everything = shop.walk(sort_by="price", limit=60, tenant=catalogue)
    page = shop.call("product_list", sort_by="price", page=2, per_page=10, tenant=catalogue)
    after = shop.call("product_list", sort_by="price", cursor=page.page["next"], per_page=10, tenant=catalogue)
    assert page.ids + after.ids == everything[10:30]
    before = shop.call("product_list", sort_by="price", cursor=page.page["prev"], per_page=10, tenant=catalogue)
    assert before.ids == everything[:10] and before.page["prev"] is None
    shop.refused("product_list", 400, "page-and-cursor", cursor=page.page["next"], page=2, tenant=catalogue)
    shop.refused("product_list", 400, "sort-twice", sort=["name"], sort_by="price", tenant=catalogue)


def test_filters_or(shop):
    one, two, other = (shop.make(f"Or {n}", tenant=2, currency="EUR", brand=n)["id"] for n in ("Ampère", "Bréguet", "Coulomb"))
    for slug in ("or-home", "or-garden"):
        shop.call("category_create", tenant=2, category={"name": slug, "slug": slug})
    for product, slug in ((one, "or-home"), (two, "or-garden")):
        shop.call("product_patch", tenant=2, id=product, if_match="*", patch={"category": slug})
    def listed(**filters):
        return sorted(shop.call("product_list", tenant=2, **filters).ids)
    assert listed(brand=["ampere", "Bréguet", "nobody"]) == [one, two]
    assert listed(brand=["coulomb"]) == [other] and listed(brand=["nobody"]) == []
    assert listed(category=["or-home", "or-garden"]) == [one, two] and listed(category=["or-home"], brand=["ampere", "coulomb"]) == [one]
    assert shop.call("product_count", tenant=2, brand=["ampere", "coulomb"])["total"] == 2
    assert shop.call("product_facets", tenant=2, brand=["ampere", "coulomb"])["facet_counts"]["in_stock"] == 0
    since = shop.rows("SELECT to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') FROM shop.product_card "
                      "WHERE product_id = %s", one)[0][0]
    assert listed(brand=["ampere", "breguet", "coulomb"], created_after=since) == [two, other]
    assert listed(brand=["ampere", "breguet", "coulomb"], created_before=since) == []


def test_other_lists_go_back(shop, catalogue):
    def walk(function, **arguments):
        pages, cursor = [], None
        while True:
            page = shop.call(function, cursor=cursor, limit=7, **arguments)
            pages.append(page)
            cursor = page.page["next"]
            if cursor is None:
                break
        assert len(pages) > 1 and pages[0].page["prev"] is None
        for earlier, later in zip(reversed(pages[:-1]), reversed(pages)):
            back = shop.call(function, cursor=later.page["prev"], limit=7, **arguments)
            assert back.ids == earlier.ids and back.page["has_more"] and (back.page["prev"] is None) == (earlier is pages[0])
        return [i for page in pages for i in page.ids]

    exported = walk("product_export", tenant=catalogue)
    assert exported == sorted(exported) and len(exported) == 60
    for n in range(10):
        shop.call("brand_create", tenant=catalogue, brand={"name": f"Brand {n}"})
    assert len(walk("brand_list", tenant=catalogue)) == 10
    product = exported[0]
    shop.eyes.execute("INSERT INTO shop.review (tenant_id, product_id, rating, comment, status, external_id) "
                      "SELECT 3, %s, 5, 'Good', 'approved', 'back-' || n FROM generate_series(1, 16) n", (product,))
    reviews = walk("product_reviews", tenant=catalogue, id=product)
    assert len(reviews) == 16 and reviews == sorted(reviews, reverse=True)


def test_expand(shop):
    parent = shop.call("category_create", category={"name": "Expanded above"})["id"]
    child = shop.call("category_create", category={"name": "Expanded", "parent_id": parent})["id"]
    made = shop.make("Expandable", category="expanded", brand="Expander")
    page = {"data": [made.body], "page": {"limit": 1}}
    whole = shop.call("expand_products", reply=page, expand=["category.parent", "brand"]).body
    assert whole["page"] == page["page"]
    assert whole["data"][0]["category"]["id"] == child and whole["data"][0]["category"]["parent"]["id"] == parent
    assert whole["data"][0]["brand"]["name"] == "Expander" and whole["data"][0]["price"] == made["price"]
    single = shop.call("expand_products", reply=made.body, expand=["category"]).body
    assert single["category"]["path"] == [parent, child] and "parent" not in single["category"] and single["brand"] == "Expander"
    assert shop.call("expand_products", reply={"data": []}, expand=["category", "brand"]).body == {"data": []}


def test_pages_end(shop, catalogue):
    shop.refused("product_list", 400, "page-too-far", page=102, per_page=100, tenant=catalogue)
    assert shop.call("product_list", page=101, per_page=100, tenant=catalogue).ids == []


def test_facets(shop, catalogue):
    counts = shop.call("product_facets", tenant=catalogue, min_price=200)["facet_counts"]
    assert shop.call("product_count", tenant=catalogue, count="estimate")["total"] > 0
    assert counts["price"] == {"min": 200, "max": 300} and counts["in_stock"] == 24


def test_search(shop):
    tea = shop.make("Écru Teapots", description="Pour a cup", brand="Kyūsu", tags=["ceramic"], sku="KY-100")["id"]
    cup = shop.make("Ceramic Mug", description="Beside teapots")["id"]
    assert shop.call("product_list", search="ecru").ids == [tea]
    assert shop.call("product_list", search="ÉCRU").ids == [tea]
    assert shop.call("product_list", search="pouring", category=None).ids == [tea]
    assert shop.call("product_list", search="kyusu").ids == [tea]
    assert shop.call("product_list", search="KY-100").ids == [tea]
    assert shop.call("product_list", search="cermic mugs").ids == [cup]
    assert shop.call("product_list", search="ceramic -mug").ids == [tea]
    assert shop.call("product_list", search="beside teapot").ids == [cup]
    assert shop.call("product_list", search="zzzzqqqq").ids == []
    assert shop.call("product_list", search="the").ids == []
    for text in ("'", "\\", "%", "a & | ! b:*", "!!", '"', "<->", "-"):
        shop.call("product_list", search=text)
        shop.call("product_suggest", q=text)
    assert shop.call("product_suggest", q="cer mu").ids == [cup]
    suggested = shop.call("product_suggest", q="teapott")
    assert suggested["corrected"] in ("teapot", "teapots") and tea in suggested.ids
    # one slip in a short word: swapped, missing, doubled, wrong; also beside words that are right
    for text in ("mgu", "mugg", "mog", "mgug", "ceramic mgu", "cermaic mug"):
        assert shop.call("product_suggest", q=text).ids == [cup], text
        assert shop.call("product_list", search=text).ids == [cup], text
    assert shop.call("product_suggest", q="mgu ceramci")["corrected"] == "mug ceramic"


def test_search_uses_its_index(shop):
    """Under row-level security an index serves only operators that cannot leak."""
    owner = psycopg.connect(shop.url)
    owner.execute("SET ROLE commerce_owner")
    # in a transaction that is rolled back: without the other indexes there is this one or a sequential scan
    owner.execute("ALTER TABLE shop.product_card DROP CONSTRAINT product_card_pkey")
    for (index,) in owner.execute("SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = 'shop.product_card'::regclass "
                                  "AND indexrelid <> 'shop.product_card_search'::regclass").fetchall():
        owner.execute(f"DROP INDEX {index}")
    owner.execute("SELECT set_config('commerce.tenant_id', '1', true), set_config('enable_seqscan', 'off', true)")
    plan = " ".join(r[0] for r in owner.execute(
        "EXPLAIN SELECT FROM shop.product_card c WHERE c.tenant_id = 1::bigint AND c.search @@ 'teapot'::tsquery"))
    owner.close()
    condition = plan.partition("Index Cond:")[2]
    assert "tenant_id = " in condition and "search @@" in condition, plan


def test_import_rows_stand_alone(shop):
    rows = [{"id": 1, "title": "Fine", "price": 9.99, "stock": 3, "category": "new things"}, {"id": 2, "price": 1},
            {"id": 3, "title": "Third of a cent", "price": 1.999}, 7, {"id": 5, "title": "Many", "price": 5, "stock": -1},
            {"id": 6, "title": "Dear", "price": "12", "rating": {"rate": 4.5, "count": 10}, "image": "https://example.com/x.png"},
            {"id": 7, "title": "Bad review", "price": 5, "reviews": [{"rating": 9}]}]
    report = shop.call("product_import", tenant=4, catalogue={"products": rows})
    assert (report["imported"], report["failed"]) == (2, 5)
    assert [(e["row"], e["field"]) for e in report["errors"]] == [(2, "title"), (3, "price"), (4, ""), (5, "stock"), (7, "")]
    found = {p["name"]: p for p in shop.call("product_list", tenant=4)["data"]}
    assert set(found) == {"Fine", "Dear"}
    assert found["Fine"]["price"]["amount"] == 999 and found["Fine"]["stock"] == 3
    assert found["Fine"]["category"] == {"id": found["Fine"]["category"]["id"], "slug": "new-things", "name": "new things"}
    assert found["Dear"]["price"]["amount"] == 1200 and found["Dear"]["rating"] == {"average": 4.5, "count": 10}

    rows[0].update(price=8.5, stock=4)
    report = shop.call("product_import", tenant=4, catalogue=rows)
    assert (report["imported"], report["updated"], report["failed"]) == (0, 1, 5)
    card = shop.call("product_list", tenant=4, search="fine")["data"][0]
    assert (card["price"]["amount"], card["stock"]) == (850, 4)

    shop.refused("product_import", 403, tenant=4, catalogue=[], roles="customer")
    shop.refused("product_import", 422, tenant=4, catalogue={"items": []})


def test_import_csv(shop):
    text = ('\ufefftitle,price,sku,stock,tags,description,colour\r\n'
            '"Mug, ""big""",4.50,CSV-1,5,red|blue,"two\nlines",green\r\n'
            'Plate,abc,CSV-2,1,,,\r\n'
            '\r\n'
            'Bowl,3,CSV-3,,,,\n')
    report = shop.call("product_import_csv", tenant=4, csv=text)
    assert (report["imported"], report["failed"]) == (2, 1) and report["errors"][0]["row"] == 2
    mug = shop.call("product_get", tenant=4, id=shop.value("SELECT product_id FROM shop.variant WHERE sku = 'CSV-1'"))
    assert (mug["name"], mug["description"], mug["tags"], mug["attributes"]) == ('Mug, "big"', "two\nlines", ["red", "blue"], {"colour": "green"})
    assert shop.call("product_import_csv", tenant=4, csv=text)["unchanged"] == 2


@pytest.mark.parametrize("text, code, said", [
    ("{}", "csv-columns", {"missing": ["title", "price"]}),
    ("", "csv-columns", {"missing": ["title", "price"]}),
    ("title,cost\nMug,3\n", "csv-columns", {"missing": ["price"]}),
    ("title,price,sku,price\nMug,3,S,4\n", "csv-columns", {"duplicate": ["price"]}),
    ('title,"price\nMug,3\n', "csv-malformed", {"row": 0}),
    ('title,price\nMug,3\n\nA 3" nail,2\n', "csv-malformed", {"row": 2}),
    ('title,price\n"Mug" big,3\n', "csv-malformed", {"row": 1}),
    ('title,price\n"Mug,3\nBowl,4\n', "csv-malformed", {"row": 1}),
])
def test_what_is_no_csv_is_refused(shop, text, code, said):
    before = shop.value("SELECT count(*) FROM shop.product")
    problem = shop.refused("product_import_csv", 422, code, tenant=4, csv=text)
    assert {name: problem[name] for name in said} == said
    assert shop.value("SELECT count(*) FROM shop.product") == before


def test_export_imports(shop):
    exported = shop.call("product_export", tenant=3, limit=100)
    assert len(exported["data"]) == shop.call("product_count", tenant=3)["total"]


def test_dummyjson(shop):
    raw = shared("catalogue", "dummyjson", "products.json").read_text(encoding="utf-8")
    products = json.loads(raw, parse_float=str)
    shop.eyes.execute("INSERT INTO shop.tenant (id, slug, name, currency) VALUES (5, 'dummy', 'Dummy', 'USD')")
    report = shop.call("product_import", tenant=5, catalogue=raw)
    assert (report["imported"], report["failed"], report["reviews"]) == (194, 0, 582)
    assert shop.value("SELECT count(*) FROM shop.review WHERE tenant_id = 5") == 582

    rows = {r[0]: r[1:] for r in shop.rows(
        "SELECT p.external_id, p.name, v.sku, v.price_amount, s.stock, p.tags FROM shop.product p JOIN shop.variant v "
        "ON v.tenant_id = p.tenant_id AND v.id = p.default_variant_id JOIN shop.product_stock s ON s.tenant_id = p.tenant_id "
        "AND s.product_id = p.id WHERE p.tenant_id = 5")}
    for product in products:
        whole, _, part = str(product["price"]).partition(".")
        assert rows[str(product["id"])] == (product["title"], product["sku"], int(whole + part.ljust(2, "0")), product["stock"],
                                            product["tags"])
    again = shop.call("product_import", tenant=5, catalogue=raw)
    assert (again["unchanged"], again["reviews"]) == (194, 0)
    assert shop.call("product_list", tenant=5, search="Mascra").body["data"][0]["name"] == "Essence Mascara Lash Princess"


def test_stock_changed_loses_nothing(shop):
    """Sales of two variants of one product at once, and of two products in both orders: the level is the sum, nobody deadlocks."""
    made = [shop.make(f"Hot {n}", variants=[
        {"sku": f"HOT-{n}-{i}", "price": {"amount": 100, "currency": "USD"}, "stock": 1000} for i in range(2)]) for n in range(2)]
    variants = sorted(v["id"] for m in made for v in m["variants"])
    faults = []

    def sell(seed):
        connection = psycopg.connect(shop.url)
        try:
            for i in range(50):
                mine = [variants[(seed + i) % 4], variants[(seed * 3 + i + 1) % 4]]
                with connection.transaction():
                    connection.execute("SELECT set_config('commerce.tenant_id', '1', true)")
                    for variant in sorted(set(mine)):
                        connection.execute("UPDATE shop.stock SET on_hand = on_hand - 1 WHERE tenant_id = 1 AND variant_id = %s", (variant,))
                        connection.execute("INSERT INTO shop.stock_movement (tenant_id, variant_id, location_id, delta, on_hand, reason) "
                                           "SELECT 1, variant_id, location_id, -1, on_hand, 'adjustment' FROM shop.stock "
                                           "WHERE tenant_id = 1 AND variant_id = %s", (variant,))
                    connection.execute("SELECT domain.stock_changed(%s::bigint[])", (mine[::-1],))
        except psycopg.Error as error:
            faults.append(error)
        finally:
            connection.close()

    crowd = [threading.Thread(target=sell, args=(n,)) for n in range(8)]
    for thread in crowd:
        thread.start()
    for thread in crowd:
        thread.join()
    assert faults == []
    assert sum(shop.call("product_get", id=m["id"])["stock"] for m in made) == shop.value(
        "SELECT sum(on_hand) FROM shop.stock WHERE variant_id = ANY (%s)", variants)


def test_generator(shop):
    shop.eyes.execute("INSERT INTO shop.tenant (id, slug, name, currency) VALUES (6, 'gen-a', 'A', 'EUR'), (7, 'gen-b', 'B', 'EUR')")

    def generate(tenant, products, seed=1):
        shop.stack.run("--tenant", tenant, "--products", str(products), "--seed", str(seed), script="scripts/generate", COMMERCE_PGURL=shop.url)

    def look(tenant):
        return shop.rows("SELECT slug, popularity, rating_sum, created_at FROM shop.product WHERE tenant_id = %s ORDER BY external_id", tenant)

    generate("gen-a", 300)
    generate("gen-b", 200)
    generate("gen-b", 300)
    generate("gen-b", 300)
    assert len(look(6)) == 300 and look(6) == look(7)
    page = shop.call("product_list", tenant=6, search="lamp", limit=5)
    assert page.ids and all("Lamp" in p["name"] for p in page["data"])


def test_migrate_twice_and_back(shop):
    before = shop.value("SELECT obj_description('api'::regnamespace)")
    shop.stack.run("--url", shop.url, script="scripts/migrate")
    assert shop.value("SELECT obj_description('api'::regnamespace)") == before
    for name in ("left_over", "of_an_operator"):
        shop.eyes.execute(f"CREATE FUNCTION api.{name}() RETURNS int LANGUAGE sql AS 'SELECT 1'")
    shop.eyes.execute("INSERT INTO domain.applied VALUES ('api.left_over()')")
    shop.stack.run("--url", shop.url, "--force", script="scripts/migrate")
    assert shop.rows("SELECT to_regproc('api.left_over')") == [(None,)]
    assert shop.rows("SELECT to_regproc('api.of_an_operator')") == [("api.of_an_operator",)]
    shop.eyes.execute("DROP FUNCTION api.of_an_operator()")
    assert shop.rows("SELECT p.oid::regprocedure::text FROM pg_proc p WHERE p.pronamespace = 'domain'::regnamespace "
                     "AND has_function_privilege('commerce_edge', p.oid, 'EXECUTE')") == []

    shop.stack.run("--url", shop.url, "--revert", script="scripts/migrate")
    assert shop.rows("SELECT nspname FROM pg_namespace WHERE nspname IN ('shop', 'event', 'domain', 'api')") == []
    shop.stack.run("--url", shop.url, "--verify", script="scripts/migrate")


def outline(url):
    """What pg_dump tells of a schema, however it words it: no remarks, a constraint within its table or after it."""
    done = subprocess.run(["pg_dump", "-s", "-N", "sqitch", "-d", url], capture_output=True, text=True, check=True)
    lines = (line.strip().rstrip(",;").removesuffix(" NOT VALID").removeprefix("ADD ") for line in done.stdout.splitlines())
    return {line for line in lines if line and not line.startswith(("--", "\\", "COMMENT ON", "CREATE EXTENSION"))
            and not re.fullmatch(r"ALTER (TABLE|DOMAIN) (ONLY )?\S+", line)}


@pytest.mark.slow
def test_each_change_is_taken_back_whole(shop):
    """One by one up and down again: after each revert there is what was there before its deploy; then all of it once more."""
    url = shop.url.rsplit("/", 1)[0] + "/steps"

    def sqitch(command, *arguments):
        done = subprocess.run(["sqitch", command, *arguments, "--target", "db:pg:" + url.split(":", 1)[1]], cwd=stack_module.ROOT / "sql",
                              capture_output=True, text=True, check=False, env={**os.environ, "PGOPTIONS": "-cclient_min_messages=warning"})
        assert done.returncode == 0, f"{command} {arguments}: {done.stdout[-1000:]} {done.stderr[-1000:]}"

    shop.eyes.execute("CREATE DATABASE steps TEMPLATE template0")
    try:
        changes = [line.split()[0] for line in (stack_module.ROOT / "sql" / "sqitch.plan").read_text().splitlines() if line and line[0] != "%"]
        assert len(changes) > 25
        before = []
        for change in changes:
            before.append(outline(url))
            sqitch("deploy", "--to-change", change, "--verify")
        whole = outline(url)
        for n in reversed(range(len(changes))):
            sqitch("revert", "-y", *(["--to-change", changes[n - 1]] if n else []))
            now = outline(url)
            assert now == before[n], f"revert/{changes[n]}.sql leaves {now - before[n]} and lacks {before[n] - now}"
        sqitch("deploy", "--verify")
        assert outline(url) == whole

        # an installed one: with the functions, and what they stand on
        shop.stack.run("--url", url, "--force", "--verify", script="scripts/migrate")
        shop.stack.run("--url", url, "--revert", script="scripts/migrate")
        assert outline(url) == before[0]
    finally:
        shop.eyes.execute("DROP DATABASE steps WITH (FORCE)")
