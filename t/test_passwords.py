"""The queue of passwords: one for all workers of the node, bounded by the time that who comes would wait."""

import concurrent.futures
import json
import time

import pytest

from stack import CHEAP, wait_for

LOGIN = "/api/v1/auth/login"
EMAIL = "test@example.com"


def limited(text):
    return [(r"commerce_password_limit\s[^;]*", f"commerce_password_limit {text}")]


def guess(shop, email):
    with shop.edge(timeout=600) as edge:
        return edge.post(LOGIN, json={"email": email, "password": "wrong"})


def attempts(shop):
    return shop.value("SELECT count(*) FROM shop.login_attempt")


def begin(shop, email):
    """A login whose answer nobody reads yet."""
    body = json.dumps({"email": email, "password": "wrong"}).encode()
    s = shop.connect()
    s.sendall(b"POST /api/v1/auth/login HTTP/1.1\r\nHost: demo.localhost\r\nContent-Type: application/json\r\n"
              b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
    return s


def good(shop):
    return shop.edge().post(LOGIN, json={"email": EMAIL, "password": "password"}).status_code == 200


def test_who_would_wait_for_long_is_refused_before_anything_is_done(shop):
    with shop.configured(http="commerce_password_cost 14;", replace=limited("1 wait=100ms")):
        before = attempts(shop)
        with concurrent.futures.ThreadPoolExecutor(40) as pool:
            crowd = [pool.submit(guess, shop, f"crowd{i}@example.com") for i in range(40)]
            # all others go on
            with shop.edge() as edge:
                for _ in range(30):
                    assert edge.get("/health/live").status_code == 200
            answers = [f.result() for f in crowd]
        refused = [a for a in answers if a.status_code == 503]
        compared = [a for a in answers if a.status_code == 401]
        assert refused and compared and len(refused) + len(compared) == 40
        for answer in refused:
            assert int(answer.headers["retry-after"]) >= 1
            assert answer.json()["code"] == "busy"
        # a refused one did not get as far as the database
        assert attempts(shop) - before == len(compared)
        wait_for(lambda: good(shop), 60, "the queue is empty again")


def test_one_at_a_time_over_workers_and_generations(shop):
    """Eight logins over two workers and a reload take as long as eight in a row: what one costs is counted in CPU time."""
    # the workers that leave have all the time that their logins take
    with shop.configured(replace=[*limited("1 wait=10m"), (r"worker_shutdown_timeout\s+\w+", "worker_shutdown_timeout 10m")]):
        guess(shop, "warm@example.com")
        before = shop.cpu()
        for _ in range(3):
            guess(shop, "warm@example.com")
        one = (shop.cpu() - before) / 3

        began = attempts(shop)
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            start = time.monotonic()
            crowd = [pool.submit(guess, shop, f"row{i}@example.com") for i in range(4)]
            wait_for(lambda: attempts(shop) >= began + 4, 60, "four have a place")
            shop.reload(wait=False)
            crowd += [pool.submit(guess, shop, f"row{i}@example.com") for i in range(4, 8)]
            assert [f.result().status_code for f in crowd] == [401] * 8
            spent = time.monotonic() - start
        assert spent > 8 * one * 0.7, f"{spent:.2f} s for eight of {one:.2f} s"


def test_dead_workers_hold_nobody_up(shop):
    """Both workers are killed while passwords wait for their turn: their places are free again."""
    with shop.configured(http="commerce_password_cost 14;", replace=limited("1 wait=10m")):
        began = attempts(shop)
        waiting = [begin(shop, f"killed{i}@example.com") for i in range(12)]
        wait_for(lambda: attempts(shop) >= began + 12, 60, "all have a place")
        shop.kill_worker()
        shop.kill_worker()
        for s in waiting:
            s.close()
        shop.ready()
        wait_for(lambda: good(shop), 60, "the next one is served")


def test_who_is_unknown_costs_what_a_wrong_password_costs(shop):
    """In CPU time of the workers, which is what an answer takes: no account, a disabled one, one whose hash is cheaper, one without."""
    todays = CHEAP.replace("$10$", "$12$")          # of no password that anybody knows
    for name, stored in (("known", todays), ("off", todays), ("cheap", CHEAP), ("none", "")):
        shop.rows("SELECT domain.user_put(1, %s, %s, 'Someone')", f"{name}@example.com", stored)
    shop.rows("UPDATE shop.app_user SET status = 'disabled' WHERE email = 'off@example.com' RETURNING 1")

    def cost(name):
        before = shop.cpu()
        assert guess(shop, f"{name}@example.com").status_code == 401
        return shop.cpu() - before

    guess(shop, "warm@example.com")
    # in turns, and the least of each: a full machine makes work dearer, never cheaper
    names = ("known", "unknown", "off", "cheap", "none")
    turns = [{name: cost(name) for name in names} for _ in range(4)]
    least = {name: min(turn[name] for turn in turns) for name in names}
    # what is left out would be a quarter, or nothing
    assert all(0.5 < least[name] / least["known"] < 2 for name in names), turns


def test_places_of_clients_that_left_are_free(shop):
    with shop.configured(http="commerce_password_cost 14;", replace=limited("1 wait=10m")):
        began = attempts(shop)
        for round in range(3):
            crowd = [begin(shop, f"left{round}.{i}@example.com") for i in range(60)]
            wait_for(lambda seen=60 * (round + 1): attempts(shop) >= began + seen, 120, "all have a place")
            for s in crowd:
                s.close()
            # 64 places are all there are: the next round needs these
            wait_for(lambda: good(shop), 120, "who stays is served")


@pytest.mark.parametrize("text,why", [
    ("0", 'neither "auto" nor a number'),
    ("33", 'neither "auto" nor a number'),
    ("some", 'neither "auto" nor a number'),
    ("1 wait=50ms", "is no time of 100ms to 1h"),
    ("1 wait=soon", "is no time of 100ms to 1h"),
    ("1 queue=5", 'it can only be "wait=time"'),
    ("1; commerce_password_limit 2", "is duplicate"),
])
def test_faults_name_the_cure(shop, text, why):
    shop.configure(replace=limited(text))
    try:
        done = shop.check_conf()
        assert done.returncode != 0
        assert why in done.stdout + done.stderr + "\n".join(shop.log_lines())
        shop.expect_log(r"\[emerg\]")
    finally:
        shop.configure()
