"""
The shop on one core, the generator on the other, both before whatever else the machine does: throughput beside the limit, then
latencies at half of it.  For rows whose limit is HTTP too; for these a worker does everything and the backends nearly nothing.
"""

import contextlib
import os
import statistics
import time

from bench_tools import CONNECTIONS, RUN, openloop, say

# real-time priorities; openloop watches the server's core with 30, before all of these
GENERATOR, WORKER, BACKENDS = 20, 10, 5

# Half of p99's share: at half load a stall of the machine delays what is due while it lasts and about as many after it.
CALM = 0.0025
# s.  Where real-time processes leave nothing of a core, the kernel gives the others 50 ms after 950: a window is shorter, and
# they have their turn before it.
WINDOW = 0.8
WARM = 0.3
TURN = 0.25

# what of each window is kept
TOLD = 'rate', 'cpu_us', 'p50_ms', 'p99_ms', 'max_ms', 'behind_p99_ms', 'lost_here_ms', 'lost_there_ms', 'starved', 'load', 'waited'


def tasks(roots):
    """Threads of these processes and of their children."""
    for pid in filter(str.isdigit, os.listdir('/proc')):
        with contextlib.suppress(OSError):
            parent = int(open(f'/proc/{pid}/stat').read().rpartition(') ')[2].split()[1])
            if int(pid) in roots or parent in roots:
                yield from ((int(pid), int(task)) for task in os.listdir(f'/proc/{pid}/task'))


def master(kind, file):
    return int(open(os.path.join(RUN, kind, file)).readline())


class Alone:
    """While it is entered: everything of the shop on the first core, this program and what it starts on the last."""

    def __init__(self, stack):
        self.stack = stack
        self.cores = sorted(os.sched_getaffinity(0))
        self.before = True          # whether real-time priorities are allowed

    def __enter__(self):
        self.stack.stack('init', 'WORKERS=1')
        self.stack.reload()
        time.sleep(1)               # old workers go
        nginx = master('nginx', 'nginx.pid')
        roots = {nginx, master('postgres', 'postmaster.pid'), master('redis', 'redis.pid')}
        self.worker = next(pid for pid, task in tasks({nginx}) if pid != nginx)
        self.shop = [task for pid, task in tasks(roots)]
        for task in self.shop:
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(task, {self.cores[0]})
        os.sched_setaffinity(0, {self.cores[-1]})
        try:
            for task in self.shop:
                with contextlib.suppress(ProcessLookupError):
                    os.sched_setscheduler(task, os.SCHED_FIFO, os.sched_param(BACKENDS))
            os.sched_setscheduler(self.worker, os.SCHED_FIFO, os.sched_param(WORKER))
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(GENERATOR))
        except PermissionError:
            self.before = False
            say('  no real-time priorities here: others on the machine come in between')
        return self

    def __exit__(self, *what):
        for task in [0] + self.shop:
            with contextlib.suppress(ProcessLookupError):
                os.sched_setscheduler(task, os.SCHED_OTHER, os.sched_param(0))
                os.sched_setaffinity(task, self.cores)

    def worker_time(self):
        """Seconds that the worker ran, and waited for its core."""
        ran, waited = open(f'/proc/{self.worker}/schedstat').read().split()[:2]
        return int(ran) / 1e9, int(waited) / 1e9


def percentile(histogram, share):
    """The upper edge of the step, in ms; histogram: µs → answers."""
    want, seen = share * sum(histogram.values()), 0
    for upper in sorted(histogram):
        seen += histogram[upper]
        if seen > want:
            return upper / 1000
    return None


def pooled(windows):
    histogram = {}
    for window in windows:
        for upper, count in window['histogram']:
            histogram[upper] = histogram.get(upper, 0) + count
    return {f'p{name}_ms': percentile(histogram, share) if histogram else None for name, share in (('50', .5), ('99', .99), ('999', .999))}


SIDES = 'ours', 'limit'


def run(row, alone, rate, count):
    """side → what each window told; the sides take turns.  rate 0: closed loop."""
    windows = {side: [] for side in SIDES}
    for _ in range(count):
        for side, requests in zip(SIDES, (row.requests(), row.limit_requests())):
            def generate(seconds, sent=requests):
                return openloop(sent, rate, seconds, row.port, connections=CONNECTIONS, server_core=alone.cores[0])
            generate(WARM)
            time.sleep(TURN)
            before = alone.worker_time()
            told = generate(WINDOW)
            ran, waited = (after - earlier for after, earlier in zip(alone.worker_time(), before))
            windows[side].append(dict(told, rate=told['answered'] / WINDOW, cpu_us=ran / told['answered'] * 1e6, load=ran / WINDOW,
                                      waited=waited / WINDOW))
        if rate == 0:
            say(f'  {row.name}, a core each: ' + ' / '.join(f'{windows[side][-1]["rate"]:,.0f}' for side in SIDES))
    return windows


def calm(windows):
    """Those in which the machine took little from either core: nothing that the server does shows in it."""
    return [window for window in windows if max(window['lost_here_ms'], window['lost_there_ms']) <= CALM * WINDOW * 1000]


def median(windows, name):
    return statistics.median(window[name] for window in windows) if windows else float('nan')


def measure(row, alone, options):
    """One row.  Where no window was calm, the rates are those of all; the ratio is that of neighbours, which share the machine's mood."""
    most = run(row, alone, 0, 2 * options.pairs)
    rated = {side: calm(most[side]) or most[side] for side in SIDES}
    ratios = sorted(ours['rate'] / limit['rate'] for ours, limit in zip(*(most[side] for side in SIDES)))
    offered = round(median(rated['ours'], 'rate') / 2)
    half = run(row, alone, offered, 2 * options.pairs)

    result = {'class': row.name, 'precedence': alone.before, 'windows': 2 * options.pairs, 'offered': offered,
              'ratio': round(statistics.median(ratios), 3), 'ratios': [round(ratio, 3) for ratio in ratios]}
    for side in SIDES:
        rates = sorted(window['rate'] for window in rated[side])
        result[side] = {'rate': round(median(rated[side], 'rate')), 'lowest': round(rates[0]), 'highest': round(rates[-1]),
                        'cpu_us': round(median(rated[side], 'cpu_us'), 1), 'busy': round(median(rated[side], 'load'), 2),
                        'calm': [len(calm(most[side])), len(calm(half[side]))], 'load': round(median(half[side], 'load'), 2),
                        **pooled(calm(half[side])), 'all': pooled(half[side]),
                        'each': [{name: round(window[name], 4) for name in TOLD} for window in most[side] + half[side]],
                        'statuses': sorted({status for window in most[side] + half[side] for status in window['statuses']})}
    return result


def milliseconds(side):
    return ''.join(f'{value:>8.3f}' if (value := side[f'p{p}_ms']) is not None else f'{"-":>8}' for p in ('50', '99', '999'))


def table(results):
    print('\nThe shop on one core, the generator on the other. Latencies at half of the rate, requests at random moments, '
          f'windows of {WINDOW} s: of those in which no core lost more than {CALM:.2%}, and of all.')
    print(f'{"class":<16}{"ours/s":>8}{"limit/s":>9}{"ratio":>7}{"CPU µs":>12}{"busy":>12}{"load":>6}{"p50, p99, p99.9 ms":>26}{"limit":>24}'
          f'{"p99 of all, limit":>20}   calm windows')
    for row in results:
        ours, limit = (row[side] for side in SIDES)
        print(f'{row["class"]:<16}{ours["rate"]:>8,}{limit["rate"]:>9,}{row["ratio"]:>7.2f}{ours["cpu_us"]:>7.1f}{limit["cpu_us"]:>5.1f}'
              f'{ours["busy"]:>7.2f}{limit["busy"]:>5.2f}{ours["load"]:>6.2f}{milliseconds(ours):>26}{milliseconds(limit):>24}'
              f'{ours["all"]["p99_ms"]:>10.3f}{limit["all"]["p99_ms"]:>10.3f}'
              f'   {ours["calm"]}, {limit["calm"]} of {row["windows"]}')
        for side in SIDES:
            if row[side]['statuses'] != ['200']:
                print(f'! {row["class"]}, {side}: answers {row[side]["statuses"]}')
