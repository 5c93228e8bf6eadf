"""A revoked session's access tokens stop working at once: at the edge that revokes, at the others, after a restart."""

import concurrent.futures
import pathlib
import threading
import time
import uuid

import httpx
import pytest

from stack import CHEAP, wait_for

HERE = pathlib.Path(__file__).parent
PROFILE = "/api/v1/users/profile"
EMAIL = "test@example.com"
GUARDED = "location /guarded/ { commerce_auth required; commerce_jwks; }"


@pytest.fixture(scope="module")
def revoking(shop):
    with shop.db() as db:
        db.execute((HERE / "contracts" / "revoke.sql").read_text())
    bundle = shop.folder / "revoke.json"
    bundle.write_text(shop.run("bundle", HERE / "contracts" / "revoke.yaml", script="scripts/contract").stdout)
    with shop.configured(http=f"commerce_contract {bundle};", server=GUARDED):
        yield shop


@pytest.fixture
def user(revoking):
    """Whose tokens are good from now on: those that are signed here bear this second, the edge's own one after the last revocation."""
    found = str(revoking.value("SELECT id::text FROM shop.app_user WHERE tenant_id = 1 AND email = %s", EMAIL))
    wait_for(lambda: not revoking.value("SELECT count(*) FROM shop.revocation WHERE tenant_id = 1 AND id = %s AND "
                                        "floor(extract(epoch FROM revoked_at)) >= floor(extract(epoch FROM clock_timestamp()))", found),
             15, "the second of the last revocation is over")
    return found


def revoke(shop, **body):
    answer = shop.edge(tenant="demo").post("/api/v1/probe/revoke", json=body)
    assert answer.status_code == body.get("status", 200), answer.text


def statuses(shop, token, count=12, path=PROFILE):
    """Each on a connection of its own, so that both workers are asked."""
    found = []
    for _ in range(count):
        with httpx.Client(base_url=shop.url, timeout=300, verify=False) as client:
            found.append(client.get(path, headers={"Authorization": f"Bearer {token}", "Host": "demo.localhost"}).status_code)
    return set(found)


def session_token(shop, user, session=None, **claims):
    session = session or str(uuid.uuid4())
    return session, shop.token(user, sid=session, **claims)


# ---- at the edge that serves the command ----


def test_at_once_in_every_worker(revoking, user):
    gone, token = session_token(revoking, user)
    stays, other = session_token(revoking, user)
    # both workers have both tokens in their caches
    assert statuses(revoking, token, 16) == statuses(revoking, other, 16) == {200}
    revoke(revoking, sessions=[gone])
    assert statuses(revoking, token, 16) == {401}
    assert statuses(revoking, token, 4, "/guarded/") == {401}
    assert statuses(revoking, other, 16) == {200}
    assert statuses(revoking, other, 4, "/guarded/") == {200}
    # another token of the session, which no cache has seen
    assert statuses(revoking, session_token(revoking, user, gone)[1]) == {401}
    assert stays != gone


def test_looks_like_any_bad_token(revoking, user):
    gone, token = session_token(revoking, user)
    revoke(revoking, sessions=[gone])
    bodies = []
    for text in (token, "nonsense"):
        answer = revoking.edge(tenant="demo", token=text).get(PROFILE)
        body = answer.json()
        body.pop("correlation_id")
        bodies.append((answer.status_code, body, answer.headers["www-authenticate"]))
    assert bodies[0] == bodies[1] and bodies[0][0] == 401


def test_a_refusal_may_revoke(revoking, user):
    """As a refresh token that comes twice: 401, and its whole session is over."""
    gone, token = session_token(revoking, user)
    assert statuses(revoking, token) == {200}
    revoke(revoking, sessions=[gone], status=401)
    assert statuses(revoking, token) == {401}


@pytest.mark.parametrize("status", [200, 401, 409, 503])
def test_the_reply_alone_revokes(revoking, user, status):
    """Whatever its status: what a notice brings as well comes a moment later, or not at all while nobody listens."""
    gone, token = session_token(revoking, user)
    assert statuses(revoking, token) == {200}
    revoke(revoking, sessions=[gone], status=status, quiet=True)
    assert statuses(revoking, token) == {401}


def test_a_session_of_another_shop_is_another(revoking, user):
    session, token = session_token(revoking, user)
    with revoking.db() as db:
        db.execute("SET ROLE commerce_owner")
        db.execute("SELECT set_config('commerce.tenant_id', '2', false)")
        db.execute("SELECT domain.revoke_sessions(ARRAY[%s::uuid])", (session,))
        db.execute("SELECT set_config('commerce.tenant_id', '1', false)")
        mark = str(uuid.uuid4())
        db.execute("SELECT domain.revoke_sessions(ARRAY[%s::uuid])", (mark,))
    # notices come in order: when the second is here, the first was
    wait_for(lambda: statuses(revoking, session_token(revoking, user, mark)[1], 1) == {401}, 10, "the notice arrives")
    assert statuses(revoking, token) == {200}


# ---- a user ----


def test_user(revoking, user):
    keep, kept = session_token(revoking, user)
    _, one = session_token(revoking, user)
    without = revoking.token(user, sid=None)
    staff = revoking.value("SELECT id::text FROM shop.app_user WHERE tenant_id = 1 AND email = 'admin@example.com'")
    _, another = session_token(revoking, staff, roles=["staff"])
    for token in (kept, one, without, another):
        assert statuses(revoking, token) == {200}
    revoke(revoking, user=user, keep=keep)
    assert statuses(revoking, kept) == {200}
    assert statuses(revoking, one) == {401}
    assert statuses(revoking, without) == {401}
    assert statuses(revoking, another) == {200}
    revoke(revoking, user=user)
    assert statuses(revoking, kept) == {401}


def test_a_refresh_under_way_is_no_login(revoking, user):
    """It took its step before the sessions ended, and its token is issued after that."""
    ended, token = session_token(revoking, user)
    revoke(revoking, user=user, sessions=[ended])
    assert statuses(revoking, token) == {401}
    later = session_token(revoking, user, ended, iat=int(time.time()) + 5)[1]
    assert statuses(revoking, later) == {401}
    assert statuses(revoking, session_token(revoking, user, iat=int(time.time()) + 5)[1]) == {200}


def test_a_login_right_after_is_good(revoking, user):
    """Within the same second too, whatever worker issues the token."""
    revoking.rows("SELECT domain.user_put(1, %s, %s, 'Cheap')", "again@example.com", CHEAP)
    again = str(revoking.value("SELECT id::text FROM shop.app_user WHERE email = 'again@example.com'"))
    for _ in range(4):
        before = revoking.edge("again@example.com", tenant="demo").headers["Authorization"][7:]
        assert statuses(revoking, before, 4) == {200}
        revoke(revoking, user=again)
        after = revoking.edge("again@example.com", tenant="demo").headers["Authorization"][7:]
        assert statuses(revoking, before, 4) == {401}
        assert statuses(revoking, after, 8) == {200}


def test_no_number_of_revocations_reaches_far_ahead(revoking, user):
    """What the edge reads again when it begins voids nothing that it has issued meanwhile."""
    for _ in range(30):
        revoke(revoking, user=user)
    ahead = revoking.value("SELECT extract(epoch FROM max(revoked_at) - clock_timestamp()) FROM shop.revocation WHERE id = %s", user)
    assert ahead <= 10
    login = revoking.edge(EMAIL, tenant="demo").headers["Authorization"][7:]
    revoking.stop("nginx")
    revoking.start("nginx")
    wait_for(lambda: statuses(revoking, login, 2) == {200}, 10, "the login outlives a restart")


# ---- at other edges, and later ----


def put(shop, *sessions):
    with shop.db() as db:
        db.execute("SET ROLE commerce_owner")
        db.execute("SELECT set_config('commerce.tenant_id', '1', false)")
        db.execute("SELECT domain.revoke_sessions(%s::uuid[])", (list(sessions),))


def test_by_notification(revoking, user):
    sessions = [session_token(revoking, user) for _ in range(8)]
    for _, token in sessions:
        assert statuses(revoking, token, 2) == {200}
    put(revoking, *(session for session, _ in sessions))
    for _, token in sessions:
        wait_for(lambda token=token: statuses(revoking, token, 6) == {401}, 10, "refused")


def test_a_reload_forgets_nothing(revoking, user):
    gone, token = session_token(revoking, user)
    revoke(revoking, sessions=[gone])
    revoking.reload()
    assert statuses(revoking, token) == {401}


def test_a_restart_reads_what_was_revoked(revoking, user):
    gone, token = session_token(revoking, user)
    long_ago, old = session_token(revoking, user)
    revoke(revoking, sessions=[gone, long_ago])
    revoking.rows("UPDATE shop.revocation SET revoked_at = now() - interval '3 hours' WHERE id = %s RETURNING 1", long_ago)
    revoking.stop("nginx")
    revoking.start("nginx")
    wait_for(lambda: statuses(revoking, token, 6) == {401}, 10, "the snapshot arrives")
    # no token of then can be alive, so nobody keeps it
    assert statuses(revoking, old) == {200}


def test_what_was_missed_is_asked_for(revoking, user):
    """What was revoked while nobody listened is read when the connection is back."""
    gone, token = session_token(revoking, user)
    # a row without its notice
    revoking.rows("INSERT INTO shop.revocation (tenant_id, kind, id, revoked_at) VALUES (1, 'session', %s, now()) RETURNING 1", gone)
    assert statuses(revoking, token) == {200}
    listeners = ("SELECT count({}) FROM pg_stat_activity WHERE usename = 'commerce_edge' AND datname = current_database() "
                 "AND query LIKE 'LISTEN%'")
    # of an nginx that has left one may still be there
    wait_for(lambda: revoking.value(listeners.format("pid")) == 1, 10, "one worker listens")
    assert revoking.value(listeners.format("pg_terminate_backend(pid)")) == 1
    wait_for(lambda: statuses(revoking, token, 6) == {401}, 20, "the snapshot was read again")


def test_many(revoking, user):
    """More than the zone holds: all of them are refused, and who logs in afterwards is not."""
    first, token = session_token(revoking, user)
    assert statuses(revoking, token, 4) == {200}
    sessions = [str(uuid.uuid4()) for _ in range(30000)]
    for i in range(0, len(sessions), 10000):
        put(revoking, *sessions[i:i + 10000])
    revoke(revoking, sessions=[first])
    assert statuses(revoking, token, 4) == {401}
    last = session_token(revoking, user, sessions[-1], iat=int(time.time()) - 120)[1]
    wait_for(lambda: statuses(revoking, last, 2) == {401}, 30, "the last notice arrives")
    issued = int(time.time()) - 120
    for session in sessions[::1500]:
        assert statuses(revoking, session_token(revoking, user, session, iat=issued)[1], 2) == {401}
    login = revoking.edge(EMAIL, tenant="demo").headers["Authorization"][7:]
    assert statuses(revoking, login) == {200}


def test_under_load(revoking, user):
    """While sessions come and go, no good token is refused and no revoked one is taken."""
    # What did not fit into the zone before is forgotten for a floor: a token that bears the second of those revocations is refused with
    # them. The edge's own bear a later one; those that are signed here begin when that second is over.
    wait_for(lambda: revoking.value("SELECT floor(extract(epoch FROM clock_timestamp())) > floor(extract(epoch FROM max(revoked_at))) "
                                    "FROM shop.revocation"), 10, "a second without revocations")
    over = threading.Event()
    _, good = session_token(revoking, user)

    def ask():
        found = set()
        with httpx.Client(base_url=revoking.url, timeout=300, verify=False) as client:
            while not over.is_set():
                found.add(client.get(PROFILE, headers={"Authorization": f"Bearer {good}", "Host": "demo.localhost"}).status_code)
        return found

    def come_and_go():
        found = set()
        for _ in range(60):
            session, token = session_token(revoking, user)
            found.add(("before", *statuses(revoking, token, 2)))
            revoke(revoking, sessions=[session])
            found.add(("after", *statuses(revoking, token, 2)))
        return found

    with concurrent.futures.ThreadPoolExecutor(5) as pool:
        asked = [pool.submit(ask) for _ in range(3)]
        gone = [pool.submit(come_and_go) for _ in range(2)]
        try:
            assert set().union(*(f.result() for f in gone)) == {("before", 200), ("after", 401)}
        finally:
            over.set()
        assert set().union(*(f.result() for f in asked)) == {200}


# ---- what SQL says ----


def test_the_reply_tells_the_edge(revoking):
    session, subject, keep = uuid.uuid4(), uuid.uuid4(), uuid.uuid4()
    with revoking.db() as db:
        db.execute("SET ROLE commerce_owner")
        db.execute("SELECT set_config('commerce.tenant_id', '1', false)")
        now = db.execute("SELECT extract(epoch FROM now())::bigint AS now").fetchone()["now"]

        entry, = db.execute("SELECT domain.revoke_sessions(ARRAY[%s]) AS edge", (session,)).fetchone()["edge"]["revoke"]
        kind, name, at = entry.split(":")
        assert (kind, name) == ("s", str(session)) and abs(int(at) - now) < 10

        edge = db.execute("SELECT domain.revoke_user(%s, keep => %s) || '{\"invalidate\":[\"x\"]}' AS edge",
                          (subject, keep)).fetchone()["edge"]
        assert edge["invalidate"] == ["x"]
        entry, = edge["revoke"]
        assert entry.startswith(f"u:{subject}:") and entry.endswith(f":{keep}")
        assert db.execute("SELECT domain.revoke_sessions(NULL) AS edge").fetchone()["edge"] == {"revoke": []}


def test_old_revocations_go_with_the_next(revoking):
    revoking.rows("INSERT INTO shop.revocation (tenant_id, kind, id, revoked_at) SELECT 1, 'session', gen_random_uuid(), "
                  "now() - interval '2 days' FROM generate_series(1, 25) RETURNING 1")
    old = "SELECT count(*) FROM shop.revocation WHERE revoked_at < now() - interval '1 day'"
    for left in (14, 3, 0):
        put(revoking, str(uuid.uuid4()))
        assert revoking.value(old) == left


def test_nonsense_is_not_taken(revoking, user):
    """A notice that is none is logged; the next one is heard."""
    gone, token = session_token(revoking, user)
    revoking.rows("SELECT pg_notify('commerce_revoke', x) FROM unnest(%s::text[]) x", ["", "x", "1:s:x:1", "a:s:" + gone + ":1", "1:z"])
    put(revoking, gone)
    wait_for(lambda: statuses(revoking, token, 6) == {401}, 10, "refused")
    assert sum("on commerce_revoke is no revocation" in line for line in revoking.log_lines()) == 5
