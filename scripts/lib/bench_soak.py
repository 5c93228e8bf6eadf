"""The soak of scripts/bench: what workers hold after many requests, and with many idle connections."""

import re
import resource
import socket

from bench_tools import FAILED, PORT, RUN, say, wrk

IDLE = 10000        # connections that wait with nothing to say
ROUNDS = 10         # after each of these parts memory is looked at
ASK = b'GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n'


def held():
    """Worker → kilobytes of its own: without the zones, which all of them share, and without files."""
    master = int(open(f'{RUN}/nginx/nginx.pid', encoding='ascii').read())
    children = open(f'/proc/{master}/task/{master}/children', encoding='ascii').read().split()
    return {int(pid): int(re.search(r'RssAnon:\s+(\d+)', open(f'/proc/{pid}/status', encoding='ascii').read())[1])
            for pid in children if 'worker' in open(f'/proc/{pid}/cmdline', encoding='ascii').read()}


def idle(count):
    """Opens connections, each of which has had an answer."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, count + 200)), hard))
    connections = []
    for _ in range(count):
        connection = socket.create_connection(('127.0.0.1', PORT))
        connection.sendall(ASK)
        if not connection.recv(4096).startswith(b'HTTP/1.1 200 '):
            raise SystemExit('scripts/bench: an idle connection was not answered')
        connections.append(connection)
    return connections


def soak(stack, rows, count):
    """rows: classes, prepared; the first takes nine tenths of the time.  Returns what is to be written down."""
    done, table, failed = 0, [], 0
    share = count / ROUNDS
    say(f'  {"requests":>12}{"not 2xx":>9}   kB of each worker beside zones and files')
    for part in range(ROUNDS + 1):
        table.append({'requests': done, 'failed': failed, 'kb': sorted(held().values())})
        say(f'  {done:>12,}{failed:>9,}   {table[-1]["kb"]}')
        if part == ROUNDS:
            break
        target = done + share
        FAILED['ours'] = 0
        for row in rows[1:]:
            done += row.ours(1)[1]
        while done < target:
            done += wrk(stack, rows[0].script(), max(1, min(20, int((target - done) / 40000))))[1]
        failed += FAILED['ours']

    connections = idle(IDLE)
    with_idle = sorted(held().values())
    say(f'  {IDLE:>12,} idle   {with_idle}')
    for connection in connections:
        connection.close()
    return {'soak': table, 'idle_connections': IDLE, 'idle_kb': with_idle}
