"""What goes wrong while customers buy.  A fault is a coroutine that runs until it is told to stop and leaves everything mended.

Only processes of the torture's own stack are touched, by their ids.
"""

import asyncio
import contextlib
import os
import pathlib
import signal

AT_ONCE = 5             # calls that a provider fails in one way before it is asked to fail in the next


def in_thread(function, *arguments):
    return asyncio.get_running_loop().run_in_executor(None, function, *arguments)


class Stop(asyncio.Event):
    """When it is over, and how often something went wrong until then."""

    def __init__(self):
        super().__init__()
        self.hits = 0


async def pause(stop, seconds):
    """True when it is over before the time is."""
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)
    return stop.is_set()


def children(pid):
    """The process and all below it, the parents first."""
    found = [pid]
    for one in found:
        for task in pathlib.Path(f"/proc/{one}/task").iterdir():
            with contextlib.suppress(OSError):
                found += [int(p) for p in (task / "children").read_text().split()]
    return found


async def none(shop, stop, every):
    """Nothing goes wrong: what the others are compared with."""
    stop.hits = 99
    await stop.wait()


async def kill_worker(shop, stop, every):
    """SIGKILL to one worker after the other, every 2 s."""
    n = 0
    while not await pause(stop, every):
        pids = shop.workers()
        if len(pids) == 2:
            pid = pids[n % 2]
            n += 1
            shop.expect_log(rf"worker process {pid} exited on signal 9")
            shop.expect_log(rf"shared memory zone .* was locked by {pid}")
            os.kill(pid, signal.SIGKILL)
            stop.hits += 1


async def reload(shop, stop, every):
    """HUP every 3 s."""
    while not await pause(stop, every):
        # not done before the old ones have let go of those who are connected: whoever comes after the fault is none of theirs
        await in_thread(shop.reload)
        stop.hits += 1


def restarting(service, away):
    async def fault(shop, stop, every):
        while not await pause(stop, every):
            await in_thread(shop.kill, service)
            await pause(stop, away)
            await in_thread(shop.start, service)
            stop.hits += 1
    return fault


def stopping(service, seconds):
    """SIGSTOP to all of a service, for so many seconds, then SIGCONT: its sockets are open, and nobody answers."""
    async def fault(shop, stop, every):
        while not await pause(stop, every):
            pids = [shop.workers()[0]] if service == "worker" else children(service_pid(shop, service))
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)
            try:
                await asyncio.sleep(seconds)
            finally:
                for pid in reversed(pids):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGCONT)
            stop.hits += 1
    return fault


def paying(*kinds, **how):
    """The provider fails after it has charged: the next calls in one way, those a while later in the next."""
    async def fault(shop, stop, every):
        n = 0
        while not await pause(stop, every):
            stop.hits += await in_thread(wasted, shop.double)
            await in_thread(shop.double.ask, "faults", [{"kind": kinds[n % len(kinds)], "when": "after", "path": "/v1/payment_intents",
                                                         "count": AT_ONCE, **how}])
            n += 1
        stop.hits += await in_thread(wasted, shop.double)
        await in_thread(shop.double.ask, "faults", [])
    return fault


def wasted(double):
    """Calls that have failed since the last faults were asked for."""
    return sum(AT_ONCE - fault["count"] for fault in double.ask("faults"))


async def webhooks(shop, stop, every):
    """Each event comes three times, in any order."""
    await in_thread(shop.double.ask, "webhook", {"times": 3, "shuffle": True})
    while not await pause(stop, every):
        stop.hits += 1
    await in_thread(shop.double.ask, "webhook", {"times": 1, "shuffle": False})


def service_pid(shop, service):
    files = {"postgres": "postgres/postmaster.pid", "redis": "redis/redis.pid", "kafka": "kafka/kafka.pid"}
    return int((shop.folder / files[service]).read_text().split()[0])


# name: (what happens, the coroutine, seconds between two, the service that must be part of the stack)
FAULTS = {
    "none": ("nothing", none, 0, None),
    "kill-worker": ("SIGKILL to a worker every 2 s", kill_worker, 2, None),
    "reload": ("HUP every 3 s", reload, 3, None),
    "postgres": ("PostgreSQL stops at once, and is back after 1 s, every 6 s", restarting("postgres", 1), 6, None),
    "redis": ("SIGKILL to Redis, which is back empty after 1 s, every 5 s", restarting("redis", 1), 5, None),
    "kafka": ("SIGKILL to Kafka, which is back after 3 s, every 12 s", restarting("kafka", 3), 12, "kafka"),
    "pay-hang": ("the provider charges and never answers, 5 calls every 2 s", paying("hang"), 2, None),
    "pay-500": ("the provider charges and answers 500, 5 calls a second", paying("500"), 1, None),
    "pay-cut": ("the provider charges and hangs up, before or amid its answer, 5 calls a second", paying("cut", "half"), 1, None),
    "pay-late": ("the provider's event comes 1.5 s before its answer, 5 calls a second", paying("slow", after_ms=1500), 1, None),
    "pay-events": ("the provider's events come three times each, in any order", webhooks, 1, None),
    "pay-all": ("the provider does all of this by turns", paying("500", "slow", "half", "hang", "cut"), 1, None),
    "stop-worker": ("SIGSTOP to a worker for 10 s", stopping("worker", 10), 5, None),
    "stop-postgres": ("SIGSTOP to PostgreSQL for 10 s", stopping("postgres", 10), 5, None),
    "stop-redis": ("SIGSTOP to Redis for 10 s", stopping("redis", 10), 5, None),
    "stop-kafka": ("SIGSTOP to Kafka for 10 s", stopping("kafka", 10), 5, "kafka"),
}
