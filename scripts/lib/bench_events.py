"""scripts/bench --events: what the relay to Apache Kafka carries, how soon an event is there, what it costs a checkout."""

import http.client
import json
import os
import statistics
import subprocess
import sys
import threading
import time
import urllib.error

from bench_tools import FAILED, PORT, ROOT, RUN, WARM, Cpu, run, say

KAFKA = PORT + 7
BACKLOG = 200000
SHOWN = 200             # a second, of those whose way is timed
CLIENTS = 4
ROUNDS = 6              # of the rates; checkouts are paired, and noise asks for more pairs than that


def start(stack):
    run('bash', '-c', '. scripts/lib.sh && need_packages kafka', cwd=ROOT)
    stack.stack('init', f'KAFKA_PORT={KAFKA}')
    stack.stack('stop', 'nginx')
    stack.stack('start', 'kafka', 'nginx')
    stack.script('wait-ready', stack.url)
    until(lambda: answer(stack, '/health/ready')['services'].get('kafka_consumer'), 'nginx is no member of its group')


def until(condition, what, seconds=300):
    end = time.time() + seconds
    while not condition():
        if time.time() > end:
            sys.exit(f'scripts/bench: {what}')
        time.sleep(0.05)


def told(stack):
    return answer(stack, '/health')['events']


def answer(stack, path):
    try:
        text = stack.fetch(path)
    except urllib.error.HTTPError as e:         # it has just begun, or is overloaded, and tells nevertheless
        text = e.read()
    return json.loads(text)


def rest(stack):
    """What is under way has arrived; how far the consumers are behind each worker says for itself, so all are asked for news."""
    def news():
        before = told(stack)['consumed']
        time.sleep(0.5)
        return told(stack)['consumed'] - before

    until(lambda: stack.sql('SELECT count(*) FROM event.unsent') == '0', 'the outbox is not emptied')
    until(lambda: not news(), 'records are still being consumed')


def backlog(stack, topic, kind, count, figure):
    """Events that wait while nginx is down, and how fast they go when it comes: between a tenth and all but a tenth of them."""
    stack.stack('stop', 'nginx')
    stack.sql("SELECT set_config('commerce.tenant_id', '1', false); SELECT count(domain.emit("
              f"'{topic}', '{kind}', 'bench', (n % 1000)::text, jsonb_build_object('user_id', NULL, 'product_id', 1 + n % 100, 'action', 'view', "
              f"'metadata', jsonb_build_object('n', n)))) FROM generate_series(1, {count}) n; ANALYZE event.outbox")
    cpu = Cpu(stack)
    stack.stack('start', 'nginx')
    marks = []
    for part in (0.1, 0.9):
        until(lambda: told(stack)[figure] >= count * part, f'the events of {topic} do not go')
        marks.append((time.time(), told(stack)[figure], cpu.read()))
    rest(stack)
    (t0, n0, cpu0), (t1, n1, cpu1) = marks
    return {'rate': round((n1 - n0) / (t1 - t0)),
            'cpu_us': {kind: round((cpu1[kind] - cpu0[kind]) / (n1 - n0) * 1e6, 1) for kind in cpu1 if kind in cpu0}}


def customers(stack, seconds, gone):
    """Interactions on a timetable, each with the time at which it was sent."""
    headers = {'Authorization': f'Bearer {stack.token()}', 'Content-Type': 'application/json'}

    def one(client):
        edge, begin = http.client.HTTPConnection('127.0.0.1', PORT), time.time()
        for n in range(client, SHOWN * seconds, CLIENTS):
            time.sleep(max(0, begin + n / SHOWN - time.time()))
            body = {'product_id': 1 + n % 100, 'action': 'view', 'metadata': {'sent': str(time.time_ns())}}
            edge.request('POST', '/api/v1/interactions', json.dumps(body), headers)
            answer = edge.getresponse()
            answer.read()
            gone.append(answer.status)

    threads = [threading.Thread(target=one, args=(client,)) for client in range(CLIENTS)]
    for thread in threads:
        thread.start()
    return threads


def visible(stack, seconds):
    """From the customer's request to the record in the hands of a consumer of the topic, in milliseconds."""
    reader = subprocess.Popen(['kcat', '-b', f'127.0.0.1:{KAFKA}', '-C', '-t', 'user.interaction', '-o', 'end', '-u', '-q', '-f', '%s\n'],
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    seen, gone = [], []

    def read():
        for line in reader.stdout:
            seen.append((time.time_ns() - int(json.loads(line)['metadata']['sent'])) / 1e6)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        for _ in range(50):             # it reads from the end: until it has found that
            for one in customers(stack, 1, []):
                one.join()
            if seen:
                break
        rest(stack)
        time.sleep(0.5)
        seen.clear()
        for one in customers(stack, seconds, gone):
            one.join()
        until(lambda: len(seen) >= sum(status < 300 for status in gone), 'records are missing', 30)
    finally:
        reader.terminate()
        thread.join()
        reader.wait()
    seen.sort()
    return {'count': len(seen), 'p50_ms': round(seen[len(seen) // 2], 1), 'p99_ms': round(seen[len(seen) * 99 // 100], 1),
            'max_ms': round(seen[-1], 1)}


def consumers(stack, whether):
    """Another one reads the topics, or this node does both."""
    with open(os.path.join(RUN, 'nginx/http.d/consumer.conf'), 'w', encoding='utf-8') as conf:
        conf.write('' if whether else 'commerce_kafka_consumer  off;\n')


def checkout(stack, row, options, consuming):
    """Orders at the edge, their events relayed and, if so, consumed beside; then the function alone, nginx being down."""
    pairs, cpu = [], Cpu(stack)
    consumers(stack, consuming)
    stack.stack('stop', 'nginx')
    stack.stack('start', 'nginx')
    stack.script('wait-ready', stack.url)
    for pair in range(options.pairs):
        row.ours(WARM)              # nginx has just started: pgbench's new connections have as long before they are measured
        rest(stack)
        FAILED.update(ours=0, limit=0)
        began = cpu.read()
        rate, count = row.ours(options.seconds)
        ours = rate * (count - FAILED['ours']) / max(count, 1)      # a refusal is no order
        rest(stack)                                                 # what is left of their events is their cost too
        used = {kind: round((value - began[kind]) / max(count - FAILED['ours'], 1) * 1e6)
                for kind, value in cpu.read().items() if kind in began}
        stack.stack('stop', 'nginx')
        began = cpu.read()['postgres']
        limit, orders = row.limit(options.seconds)
        alone = round((cpu.read()['postgres'] - began) / max(orders, 1) * 1e6)
        stack.stack('start', 'nginx')
        stack.script('wait-ready', stack.url)
        pairs.append({'ours': round(ours), 'limit': round(limit), 'ratio': round(ours / limit, 3), 'failed': dict(FAILED),
                      'cpu_us': used, 'limit_cpu_us': {'postgres': alone}})
        say(f'  checkout, {"relay and consumers" if consuming else "relay"} {pair + 1}/{options.pairs}: {pairs[-1]}')
    consumers(stack, True)
    return {'pairs': pairs, 'ratio': statistics.median(pair['ratio'] for pair in pairs)}


def events(stack, options, row):
    start(stack)
    idle = stack.sql("SELECT topic || ' ' || type FROM domain.event_types() WHERE consumers = '{}' ORDER BY 1 LIMIT 1").split()
    result = {'relay': [], 'consume': [], 'visible': []}
    for _ in range(min(options.pairs, ROUNDS)):
        result['relay'].append(backlog(stack, *idle, BACKLOG, 'relayed'))
        say(f'  relayed: {result["relay"][-1]}')
        result['consume'].append(backlog(stack, 'user.interaction', 'shop.user.interaction.v1', BACKLOG // 10, 'consumed'))
        say(f'  relayed and consumed: {result["consume"][-1]}')
        result['visible'].append(visible(stack, max(10, options.seconds)))
        say(f'  request to record: {result["visible"][-1]}')
    row.prepare()
    result['checkout'] = checkout(stack, row, options, True)
    result['checkout_relay'] = checkout(stack, row, options, False)
    with open(os.path.join(RUN, 'logs/error.log'), encoding='utf-8', errors='replace') as log:
        faults = [line for line in log if '[alert]' in line or '[crit]' in line]
    for line in faults[:5]:
        say('! ' + line.strip())
    return result


def show(result):
    for name, what in ('relay', 'relayed a second'), ('consume', 'relayed and consumed a second'):
        rows = result[name]
        middle = sorted(rows, key=lambda row: row['rate'])[len(rows) // 2]
        cost = ' + '.join(f'{value:.0f} {kind}' for kind, value in middle['cpu_us'].items() if value >= 1)
        print(f'{what:<32}{middle["rate"]:>10,}   CPU µs each: {cost}')
    for name in 'p50_ms', 'p99_ms', 'max_ms':
        print(f'request to record, {name[:-3]} in ms{statistics.median(row[name] for row in result["visible"]):>13.1f}')
    for name, what in ('checkout_relay', 'checkout beside the relay'), ('checkout', 'checkout beside relay, consumers'):
        whole = sum(pair['ours'] for pair in result[name]['pairs']) / sum(pair['limit'] for pair in result[name]['pairs'])
        print(f'{what:<32}{result[name]["ratio"]:>10.2f}   of pgbench alone, {whole:.2f} by all orders: '
              + ', '.join(f'{pair["ours"]:,} / {pair["limit"]:,}' for pair in result[name]['pairs']))
    if any(any(pair['failed'].values()) for name in ('checkout', 'checkout_relay') for pair in result[name]['pairs']):
        print('! some answers were no success')
