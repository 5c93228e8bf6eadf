"""Row-level security alone keeps tenants apart: what the catalogue of PostgreSQL says, and what happens without predicates."""

import re

import psycopg
import pytest

from operations import Picture, changes, operations
from world import PUBLIC, World, personas

# Why each stands here.
NO_TENANT_FIRST = {
    "shop.tenant_host": "a host is of one tenant: it is how the tenant is found",
    "event.outbox": "read by the relay in order of id for all tenants; a partitioned key must contain created_at",
}
NOT_DEFINER = {
    "begin_request": "sets the context, touches no table",
    "fetched": "calls a function of the api with the rights of the edge: with the owner's it would reach more",
    "recall": "touches nothing",
}
OTHER_POLICIES = {
    ("shop.tenant", "platform"): "the edge's list of hosts, by commerce_platform only",
    ("shop.tenant_host", "platform"): "the same",
    ("shop.api_key", "platform"): "the edge's directory: hashes of keys, by commerce_platform only",
    ("shop.tenant_domain", "platform"): "the platform's list of claims, by commerce_platform only",
    ("shop.cart_backup", "sweep"): "api.cart_stale and api.cart_sweep find idle carts of all tenants, for SELECT only",
    ("shop.stock_movement", "sweep"): "api.stock_publish finds the sales of all tenants, for SELECT only",
    ("shop.payment", "sweep"): "api.saga_sweep finds what is due of all tenants and then enters the tenant, for SELECT only",
    ("shop.refund", "sweep"): "the same",
    ("shop.saga", "sweep"): "the same",
    ("shop.payment_event", "sweep"): "the same",
    ("shop.reservation", "sweep"): "the same",
    ("event.outbox_default", "sweep"): "domain.outbox_partitions finds events of all tenants that came before their day had a partition",
    ("event.outbox", "relay"): "the relay reads the events of all tenants, by commerce_relay only",
    ("event.retry", "relay"): "which events wait behind a consumer that failed, by commerce_relay only",
    ("shop.revocation", "revocations"): "every edge refuses the tokens of every shop's revoked sessions, by commerce_platform only",
    ("shop.webhook_delivery", "platform"): "platform.webhooks_due: the same",
    ("shop.notification", "platform"): "platform.notifications_due: ids of what is due of all tenants, columns by GRANT, by commerce_platform only",
}
SCHEMAS = "n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)'"
TENANT_TABLES = f"""
    SELECT c.oid, format('%I.%I', n.nspname, c.relname) AS name, c.relrowsecurity, c.relforcerowsecurity, c.relispartition,
           a.attnum, a.attnotnull, pg_get_userbyid(c.relowner) AS owner
      FROM pg_class c
      JOIN pg_namespace n ON n.oid = c.relnamespace
      JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped
     WHERE c.relkind IN ('r', 'p') AND {SCHEMAS}"""

# ---- what the catalogue says ----


def test_every_table_with_rows_of_tenants_is_isolated(shop):
    tables = shop.rows(TENANT_TABLES)
    assert len(tables) > 25
    for table in tables:
        assert table["relrowsecurity"] and table["relforcerowsecurity"], f"{table['name']}: CALL domain.isolate('{table['name']}')"
        assert table["attnotnull"], f"{table['name']}.tenant_id may be NULL"
        # whose functions may not change the audit log does not own it either
        assert table["owner"] == ("commerce_audit" if table["name"].startswith("audit.") else "commerce_owner")


def test_every_other_table_holds_nothing_of_tenants(shop):
    names = {r["name"] for r in shop.rows(
        "SELECT format('%I.%I', n.nspname, c.relname) AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        f"WHERE c.relkind IN ('r', 'p', 'm', 'f') AND {SCHEMAS} AND n.nspname <> 'sqitch'")}
    # domain.applied: scripts/migrate's note of what it applied; domain.progress: how far a job over all tenants has come;
    # event.unsent: numbers of events that are still to be sent
    assert names - {r["name"] for r in shop.rows(TENANT_TABLES)} == {"shop.tenant", "domain.applied", "domain.progress",
                                                                   "event.relay_shard", "event.relay_node", "event.unsent"}, \
        "a table without tenant_id: say here why"


def test_policies_are_the_tenant_and_known_exceptions(shop):
    allowed = {"(tenant_id = domain.tenant_id())", "(id = domain.tenant_id())"}
    found = set()
    for p in shop.rows("SELECT schemaname || '.' || tablename AS name, policyname, cmd, qual, with_check, permissive, "
                       "roles::text[] AS roles FROM pg_policies"):
        if p["policyname"] == "tenant":
            assert p["qual"] in allowed and p["with_check"] in allowed and p["cmd"] == "ALL", p
            assert ("(id =" in p["qual"]) == (p["name"] == "shop.tenant"), p
        else:
            assert (p["name"], p["policyname"]) in OTHER_POLICIES and (
                p["cmd"] == "SELECT" or p["policyname"] == "relay_mark"), f"an unknown policy: {p}"
            found.add((p["name"], p["policyname"]))
    assert found == set(OTHER_POLICIES)


def test_tenant_leads_every_key(shop):
    tables = {t["oid"]: t for t in shop.rows(TENANT_TABLES)}
    keyed, used = set(), set()
    for c in shop.rows("SELECT c.conrelid, c.confrelid, c.contype, c.conname, c.conkey, c.confkey, c.confrelid::regclass::text "
                       "AS target, pg_get_constraintdef(c.oid) AS text FROM pg_constraint c WHERE c.contype IN ('p', 'f', 'u')"):
        table = tables.get(c["conrelid"])
        if not table or table["relispartition"]:
            continue
        first = c["conkey"][0] == table["attnum"]
        if c["contype"] == "f":
            assert first, f"{table['name']}: {c['text']} may point into another tenant"
            if c["confrelid"] in tables:
                assert c["confkey"][0] == tables[c["confrelid"]]["attnum"], f"{table['name']}: {c['text']}"
        elif not first:
            assert table["name"] in NO_TENANT_FIRST, f"{table['name']}: {c['text']} does not begin with tenant_id"
            used.add(table["name"])
        if c["contype"] == "p":
            keyed.add(table["name"])
    assert keyed == {t["name"] for t in tables.values() if not t["relispartition"]}
    assert used == set(NO_TENANT_FIRST)
    assert not shop.rows(
        "SELECT i.indexrelid::regclass FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid JOIN pg_attribute a "
        "ON a.attrelid = c.oid AND a.attname = 'tenant_id' WHERE i.indisunique AND i.indkey[0] <> a.attnum "
        "AND NOT c.relispartition AND c.oid <> ALL (%s::regclass[])", list(NO_TENANT_FIRST)), "unique across tenants"


def test_the_edge_may_only_call(shop):
    """commerce_edge: USAGE of schema api, EXECUTE of its functions, and nothing else at all."""
    assert not shop.rows(
        "SELECT c.oid::regclass FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        f"WHERE {SCHEMAS} AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND (has_table_privilege('commerce_edge', c.oid, "
        "'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER') "
        "OR has_any_column_privilege('commerce_edge', c.oid, 'SELECT, INSERT, UPDATE, REFERENCES'))")
    assert not shop.rows(
        "SELECT c.oid::regclass FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        f"WHERE {SCHEMAS} AND CASE WHEN c.relkind = 'S' THEN "
        "has_sequence_privilege('commerce_edge', c.oid, 'USAGE, SELECT, UPDATE') END")
    usable = shop.rows("SELECT n.nspname FROM pg_namespace n "
                       f"WHERE {SCHEMAS} AND has_schema_privilege('commerce_edge', n.oid, 'USAGE')")
    assert [row["nspname"] for row in usable] == ["api"]
    assert not shop.rows("SELECT n.nspname FROM pg_namespace n WHERE has_schema_privilege('commerce_edge', n.oid, 'CREATE')")
    assert not shop.value("SELECT has_database_privilege('commerce_edge', current_database(), 'TEMPORARY, CREATE')")
    assert not shop.rows("SELECT * FROM pg_shdepend WHERE refobjid = 'commerce_edge'::regrole AND deptype = 'o'"), "owns something"
    assert not shop.rows("SELECT * FROM pg_auth_members WHERE member = 'commerce_edge'::regrole"), "is a member of a role"
    for role in ("commerce_edge", "commerce_owner", "commerce_platform", "commerce_relay"):
        r = shop.rows("SELECT rolsuper, rolbypassrls, rolcreaterole, rolcreatedb, rolreplication FROM pg_roles "
                      "WHERE rolname = %s", role)[0]
        assert not any(r.values()), (role, r)
    assert shop.value("SELECT bool_and(has_function_privilege('commerce_edge', p.oid, 'EXECUTE')) FROM pg_proc p "
                      "WHERE p.pronamespace = 'api'::regnamespace")


def test_who_reports_reads_one_shop_and_nobodys_secrets(shop):
    """commerce_report: what a shop sold, in the shop that it sets; no person but as an id, nothing to write."""
    granted = shop.rows(
        "SELECT c.oid::regclass::text AS name, string_agg(a.attname, ',') AS columns FROM pg_class c "
        "JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped "
        f"JOIN pg_namespace n ON n.oid = c.relnamespace WHERE {SCHEMAS} AND c.relkind IN ('r', 'p', 'v', 'm', 'f') "
        "AND has_column_privilege('commerce_report', c.oid, a.attnum, 'SELECT') GROUP BY 1")
    secret = re.compile(r"hash|secret|token|password|email|phone|address|recipient|guest|birth|note$|payload|author")
    assert len(granted) > 15
    assert not [(t["name"], column) for t in granted for column in t["columns"].split(",") if secret.search(column)]
    assert not shop.rows(
        "SELECT c.oid::regclass FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        f"WHERE {SCHEMAS} AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND (has_any_column_privilege("
        "'commerce_report', c.oid, 'INSERT, UPDATE, REFERENCES') OR has_table_privilege('commerce_report', c.oid, 'DELETE, TRUNCATE, TRIGGER'))")
    assert not shop.rows(f"SELECT n.nspname FROM pg_namespace n WHERE {SCHEMAS} AND n.nspname NOT IN ('shop', 'domain') "
                         "AND has_schema_privilege('commerce_report', n.oid, 'USAGE')")
    with shop.db() as db:
        db.execute("ALTER ROLE commerce_report PASSWORD 'report'")
    with psycopg.connect(host="127.0.0.1", port=shop.pg_port, user="commerce_report", password="report", dbname=shop.database,
                         autocommit=True) as db:
        for table in granted:
            # a table's grant may be of some columns
            assert db.execute(f"SELECT count({table['columns'].split(',')[0]}) FROM {table['name']}").fetchone() == (0,), table["name"]
        db.execute("SET commerce.tenant_id = '1'")
        assert db.execute("SELECT DISTINCT tenant_id FROM shop.product").fetchall() == [(1,)]
        assert db.execute("SELECT id FROM shop.tenant").fetchall() == [(1,)]
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            db.execute("UPDATE shop.product SET name = name")
        db.execute("SET default_transaction_read_only = off")
        for statement in ("UPDATE shop.product SET name = name", "SELECT email FROM shop.app_user", "SELECT 1 FROM shop.refresh_token",
                          "SELECT api.maintain()", "SELECT 1 FROM event.outbox", "SELECT 1 FROM audit.log"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                db.execute(statement)


def test_functions_of_the_api_run_as_the_owner(shop):
    for f in shop.rows("SELECT proname, prosecdef, pg_get_userbyid(proowner) AS owner, lanname FROM pg_proc p JOIN pg_language l "
                       "ON l.oid = p.prolang WHERE pronamespace = 'api'::regnamespace"):
        assert f["owner"] == "commerce_owner", f
        assert f["prosecdef"] != (f["proname"] in NOT_DEFINER), f
        assert f["lanname"] in ("plpgsql", "sql"), f
    assert not shop.rows("SELECT p.oid::regprocedure FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace "
                         f"WHERE {SCHEMAS} AND p.prosecdef AND has_function_privilege('public', p.oid, 'EXECUTE')")
    # the log as functions see it; of security_invoker, so that the policies are asked as of whoever looks
    assert shop.rows("SELECT reloptions FROM pg_class WHERE oid = 'shop.audit_log'::regclass") == [
        {"reloptions": ["security_invoker=true"]}]
    assert not shop.rows("SELECT c.oid::regclass FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
                         f"WHERE {SCHEMAS} AND n.nspname IN ('shop', 'event', 'domain', 'api') AND c.relkind IN ('v', 'm') "
                         "AND c.oid <> 'shop.audit_log'::regclass"), \
        "a view runs with its owner's rights: isolate it by security_invoker, and say so here"


# ---- what happens ----


@pytest.fixture
def owner(shop):
    """A session of commerce_owner, the role as which every function runs."""
    with shop.db() as db:
        db.execute("SET SESSION AUTHORIZATION commerce_owner")
        yield db


def test_no_tenant_sees_nothing(shop, owner):
    for table in shop.rows(TENANT_TABLES + " UNION ALL SELECT 0, 'shop.tenant', true, true, false, 1::smallint, true, ''"):
        if table["name"].startswith("audit.log_"):
            continue                    # partitions: only reached through audit.log
        for context in (None, "", "999999"):
            if context is not None:
                owner.execute("SELECT set_config('commerce.tenant_id', %s, false)", [context])
            assert owner.execute(f"SELECT count(*) AS n FROM {table['name']}").fetchone()["n"] == 0, (table["name"], context)
    assert shop.value("SELECT count(*) FROM shop.product") > 10


def test_the_edge_reaches_no_table(shop):
    with shop.db() as db:
        db.execute("SET SESSION AUTHORIZATION commerce_edge")
        for statement in ("SELECT * FROM shop.product", "SELECT * FROM event.outbox", "SELECT domain.tenant_id()",
                          "SELECT platform.tenants()", "CREATE TEMP TABLE t (x int)", "CREATE TABLE api.t (x int)",
                          "CREATE FUNCTION api.f() RETURNS int LANGUAGE sql AS 'SELECT 1'", "SET ROLE commerce_owner",
                          "SELECT nextval('shop.order_counter')", "COPY shop.orders TO STDOUT"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                db.execute(statement)


def test_no_row_moves_to_another_tenant(shop, owner):
    owner.execute("SELECT set_config('commerce.tenant_id', '2', false)")
    for statement in ("INSERT INTO shop.brand (tenant_id, slug, name) VALUES (1, 'x', 'x')",
                      "UPDATE shop.location SET tenant_id = 1", "UPDATE shop.app_user SET tenant_id = 1"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            owner.execute(statement)


# ---- functions without their predicates ----

PREDICATE = re.compile(r"\b(?:\w+\.)?tenant_id\s*=\s*(?:domain\.tenant_id\(\)|tenant\b|(?:\w+\.)+tenant_id\b|\w+\b(?![.(]))")


def without_predicates(text):
    """The function with every `tenant_id = …` true. In SET lists, which have none, it would not compile."""
    return PREDICATE.subn("true", text)


@pytest.fixture(scope="module")
def world(quiet):
    return World(quiet)


@pytest.fixture(scope="module")
def mutated(shop, world):
    """Every function of api and domain forgets the tenant."""
    count = 0
    with shop.db() as db:
        db.execute("SET check_function_bodies = on")
        for row in db.execute("SELECT p.oid, p.proname, pg_get_functiondef(p.oid) AS text FROM pg_proc p WHERE p.prokind = 'f' "
                              "AND p.pronamespace IN ('api'::regnamespace, 'domain'::regnamespace)").fetchall():
            if row["proname"] in ("begin_request", "begin_command", "keep_reply", "tenant_id", "maintain"):
                continue
            text, changed = without_predicates(row["text"])
            if changed:
                db.execute(text)
                count += changed
    assert count > 150, count
    left = shop.rows("SELECT proname FROM pg_proc WHERE pronamespace = 'api'::regnamespace AND proname IN "
                     "('order_get', 'product_get', 'address_get', 'category_list') AND prosrc ~ 'tenant_id\\s*='")
    assert not left
    shop.stop("nginx")
    shop.flush_redis()
    shop.start("nginx")         # new connections, an empty response cache
    return shop


STRANGERS = ["a secret key of acme at home", "acme's customer at home", "acme's staff at home", "acme's owner at home", "the owner's id in a token of acme",
             "a guest of acme with a token of demo's guest"]


@pytest.mark.parametrize("name", STRANGERS)
def test_nothing_leaks_without_predicates(mutated, world, name):
    persona = next(p for p in personas(world) if p.name == name)
    picture = Picture(mutated)
    before = picture.sums()
    faults, count = world.attack(operations(mutated.contract), persona)
    shown = [f for f in faults if " shows [" in f]
    assert not changes(before, picture.sums())
    assert not shown, "\n".join(shown[:10])
    assert count > 100
    # a function that the mutation broke would hide what it can do
    broken = {f for f in faults if re.search(r": 5\d\d instead", f)}
    assert not broken, "\n".join(sorted(broken)[:10])
    picture.close()


def test_the_mutation_would_have_been_seen(mutated, world):
    """Control: with row-level security off, the same requests show demo's data to acme."""
    tables = [t["name"] for t in mutated.rows(TENANT_TABLES) if not t["relispartition"]]
    persona = next(p for p in personas(world) if p.name == "acme's owner at home")
    mutated.expect_log("")
    try:
        with mutated.db() as db:
            for table in tables:
                db.execute(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY")
        mutated.stop("nginx")
        mutated.start("nginx")
        reads = [op for op in operations(mutated.contract) if op.method == "GET"]
        faults, _ = world.attack(reads, persona)
        seen = {f.split(": ")[1].split(" ")[0] for f in faults if " shows [" in f}
        assert PUBLIC in "".join(faults)
        assert len(seen) > 5, seen
    finally:
        with mutated.db() as db:
            for table in tables:
                db.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
