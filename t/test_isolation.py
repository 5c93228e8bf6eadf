"""Nobody sees or changes what belongs to somebody else: every operation of the contract, asked by everybody.

The requests are made from the contract: an operation that is added later is tested too, or fails here with what to add.
"""

import pytest

from operations import Picture, changes, operations
from stack import wait_for
from world import PERMISSIONS, PRIVATE, PUBLIC, WORD, Persona, World, made, personas

NAMES = [
    "anonymous", "an expired token of the owner", "a garbage token", "another customer", "staff without permissions",
    "a secret key of acme at demo's host", "a publishable key of acme at demo's host", "a secret key of acme at home",
    "somebody at a suspended shop", "the owner of a suspended shop",
    *(f"{tenant}'s {who} {where}" for tenant in ("acme", "globex") for where in ("at home", "at demo's host")
      for who in ("customer", "staff", "owner")),
    *(f"{who} {tenant}{of}" for tenant in ("acme", "globex")
      for who, of in (("a guest of", " with a token of demo's guest"), ("the owner's id in a token of", ""))),
]


@pytest.fixture(scope="module")
def world(quiet):
    world = World(quiet)
    twins(quiet, world)
    return world


@pytest.fixture(scope="module")
def ops(shop):
    return operations(shop.contract)


@pytest.fixture
def picture(shop):
    picture = Picture(shop)
    yield picture
    picture.close()


def twins(shop, world):
    """Globex gets a category, a brand and a product with the ids and slugs of demo's."""
    with shop.db() as db:
        for table, twin in (("category", world.category["id"]), ("brand", world.brand["id"]),
                            ("product", world.product["id"]), ("variant", world.variant)):
            db.execute(f"SELECT setval(pg_get_serial_sequence('shop.{table}', 'id'), %s, false)", [twin])
    edge = shop.staff("globex")
    category = made(edge.post("/api/v1/categories", json={"name": "Twin", "slug": world.category["slug"]}))
    brand = made(edge.post("/api/v1/brands", json={"name": "Twin", "slug": world.brand["slug"]}))
    product = made(edge.post("/api/v1/products", json={
        "name": f"{WORD} twin", "slug": world.product["slug"], "sku": "twin", "stock": 50, "category_id": category["id"],
        "brand_id": brand["id"], "price": {"amount": 500, "currency": "EUR"}}))
    assert (category["id"], brand["id"], product["id"], product["default_variant_id"]) == \
        (world.category["id"], world.brand["id"], world.product["id"], world.variant)
    with shop.db() as db:
        for table in ("category", "brand", "product", "variant"):
            db.execute(f"SELECT setval(pg_get_serial_sequence('shop.{table}', 'id'), max(id)) FROM shop.{table}")


def test_the_owner_sees_it_all(world):
    """Else the others' 404 would prove nothing."""
    v = world.victim
    for path in (f"/api/v1/orders/{world.order['id']}", f"/api/v1/users/addresses/{world.address['id']}", "/api/v1/orders",
                 "/api/v1/users/profile", "/api/v1/users/addresses"):
        assert PRIVATE in made(v.get(path)).__repr__(), path
    assert PUBLIC in v.get("/api/v1/cart").text and PUBLIC in v.get("/api/v1/wishlist").text
    assert PRIVATE in world.staff.get(f"/api/v1/admin/products/{world.draft['id']}").text
    assert PRIVATE in world.staff.get(f"/api/v1/orders/{world.guest_order['id']}").text


def test_everybody_is_here(world):
    assert sorted(p.name for p in personas(world)) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_operation(world, ops, picture, name):
    persona = next(p for p in personas(world) if p.name == name)
    foreign = persona.foreign
    marks = world.ids + [PRIVATE]
    before = picture.sums() if foreign else picture.about(marks)
    faults, count = world.attack(ops, persona)
    after = picture.sums() if foreign else picture.about(marks)
    assert not changes(before, after), f"{name} changed what is not theirs"
    assert not faults, f"{len(faults)} of {count}:\n" + "\n".join(faults[:20])
    assert count >= len(ops)


def test_staff_lacks_just_the_permission(shop, world, ops, picture):
    """Every permission but the one that is asked for: 403, and nothing happens."""
    before, faults, count = picture.sums(), [], 0
    for op in (op for op in ops if op.auth.startswith("staff:")):
        permission = op.auth.partition(":")[2]
        assert permission in PERMISSIONS, f"{op} needs {permission}: add it to t/world.py"
        roles = ["staff", "customer", *(p for p in PERMISSIONS if p != permission)]
        persona = Persona(f"staff without {permission}", tenant="demo", roles=roles, subject=world.staff.user_id)
        found, some = world.attack([op], persona)
        faults, count = faults + found, count + some
    assert not faults, "\n".join(faults[:20])
    assert count > 10 and not changes(before, picture.sums())


def test_a_cursor_is_of_its_tenant(shop, world, ops):
    """Each list of another tenant refuses each of demo's cursors."""
    with shop.staff("acme") as edge:
        for op in (op for op in ops if ("query", "cursor") in op.parameters):
            for values in world.path_values(op):
                for cursor in world.cursors:
                    answer = edge.get(op.url(values), params={"cursor": cursor})
                    if op.auth in ("customer", "platform") or answer.status_code == 404:
                        assert answer.status_code in (400, 403, 404), op
                    else:
                        assert (answer.status_code, answer.json()["code"]) == (400, "cursor-mismatch"), op


def test_cached_answers_are_of_their_tenant(shop, world, ops):
    """Every cached route at demo's and at globex' host, before and after each has voided its own."""
    cached = [op for op in ops if op.edge.get("cache")]
    assert len(cached) > 5

    def look(edge):
        found = {}
        for op in cached:
            for request, _ in world.requests(op):
                answer = edge.request(**request)
                found[op.id, request["url"], str(request["params"])] = (answer.status_code, answer.text, answer)
        return found

    def both():
        one, other = look(demo), look(globex)
        demo_marks = [PUBLIC, PRIVATE]
        for at, (status, text, answer) in other.items():
            assert not world.leaks(guest, answer), (at, text[:300], demo_marks)
        for at, (status, text, _) in one.items():
            assert "twin" not in text.lower() or status == 404, (at, text[:300])
        return one, other

    def shown(found):
        return {at: (status, text) for at, (status, text, _) in found.items() if status == 200}

    guest = Persona("globex", "globex")
    with shop.edge(tenant="demo") as demo, shop.edge(tenant="globex") as globex:
        first = both()
        assert sum(PUBLIC in text for _, text, _ in first[0].values()) > 5
        for tenant in ("demo", "globex"):
            with shop.staff(tenant) as staff:
                made(staff.post("/api/v1/categories", json={"name": f"New one of {tenant}"}))
            mine, theirs = (demo, globex) if tenant == "demo" else (globex, demo)
            wait_for(lambda mine=mine, tenant=tenant: f"New one of {tenant}" in mine.get("/api/v1/categories").text, 5)
            assert f"New one of {tenant}" not in theirs.get("/api/v1/categories").text
        again = both()
        assert {at for at in shown(again[1])} == {at for at in shown(first[1])}
