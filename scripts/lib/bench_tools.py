"""What scripts/bench measures with: a stack of its own, generators in a closed and in an open loop, CPU time by process."""

import contextlib
import json
import os
import re
import shlex
import shutil
import statistics
import subprocess
import sys
import time
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
RUN = os.environ.get('COMMERCE_BENCH_RUN', os.path.join(ROOT, '.run-bench'))
PORT = int(os.environ.get('COMMERCE_BENCH_PORT', '18099'))
CONNECTIONS = 64
CLIENTS = 16


def say(text):
    print(text, file=sys.stderr, flush=True)


def run(*command, **options):
    """Runs a command; a failure shows what it said and how to repeat it."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
    if done.returncode:
        say(f'scripts/bench: this failed with status {done.returncode}:\n  {shlex.join(command)}')
        say('\n'.join('    ' + line for line in done.stdout.splitlines()[-15:]))
        sys.exit(1)
    return done.stdout


class Stack:
    """The services that are measured."""

    def __init__(self, products, log):
        self.env = dict(os.environ, COMMERCE_RUN=RUN)
        self.products = products
        self.log = log
        self.url = f'http://127.0.0.1:{PORT}'

    def stack(self, *arguments):
        return run(os.path.join(ROOT, 'scripts/stack'), *arguments, env=self.env)

    def script(self, name, *arguments):
        return run(os.path.join(ROOT, 'scripts', name), *arguments, env=self.env)

    def start(self):
        say('building and starting the stack …')
        run('bash', '-c', '. scripts/lib.sh && need_packages run build bench', cwd=ROOT)
        self.script('build')
        with open(os.path.join(ROOT, 'objs/openapi.json'), 'w', encoding='utf-8') as bundle:
            bundle.write(self.script('contract', 'bundle'))
        with open(os.path.join(ROOT, 'objs/bench.json'), 'w', encoding='utf-8') as bundle:
            bundle.write(self.script('contract', 'bundle', 'scripts/bench.d/openapi.yaml'))
        run('cc', '-O2', '-o', os.path.join(ROOT, 'objs/openloop'), os.path.join(ROOT, 't/bench/openloop.c'), '-lm')

        self.stack('init', f'PORT={PORT}', 'PROFILE=demo', 'WORKERS=2', 'DATABASE=bench',
                   f'CONF={os.path.join(RUN, "conf")}')
        self.conf()
        self.stack('start', 'postgres', 'redis')
        self.stack('database')
        for line in self.stack('env').splitlines():
            match = re.match(r"export (\w+)=(.*)", line)
            if match:
                self.env[match[1]] = shlex.split(match[2])[0] if match[2] else ''
        self.script('migrate', '--url', self.env['COMMERCE_PGURL'])
        self.stack('password')
        self.script('seed', 'accounts')
        self.settings = dict(line.strip().split('=', 1) for line in open(os.path.join(RUN, 'settings')))

        self.grow(self.products)

        for folder in ('http.d', 'server.d'):
            os.makedirs(os.path.join(RUN, 'nginx', folder), exist_ok=True)
        self.configure({})
        self.stack('start', 'nginx')
        self.script('wait-ready', self.url)

    def grow(self, products):
        self.products = products
        have = int(self.sql("SELECT count(*) FROM shop.product WHERE tenant_id = 1"))
        if have < products:
            say(f'generating {products:,} products …')
            began = time.time()
            self.script('generate', '--tenant', 'demo', '--products', str(products), '--seed', '1')
            say(f'  {time.time() - began:.0f} s')
        self.sql('VACUUM ANALYZE')

    def conf(self):
        """The shop's configuration, whose policies count and never refuse; without jobs, whose work for an order comes after it."""
        conf = os.path.join(RUN, 'conf')
        shutil.rmtree(conf, ignore_errors=True)
        shutil.copytree(os.path.join(ROOT, 'conf'), conf)
        file = os.path.join(conf, 'limits.conf')
        text = open(file, encoding='utf-8').read()
        with open(file, 'w', encoding='utf-8') as out:
            out.write(re.sub(r'rate=\S+(\s+)burst=\d+', r'rate=1000000r/s\1burst=1000000', text))
        with open(os.path.join(conf, 'jobs.conf'), 'w', encoding='utf-8'):
            pass
        if not self.log:
            file = os.path.join(conf, 'nginx.conf')
            text = open(file, encoding='utf-8').read()
            with open(file, 'w', encoding='utf-8') as out:
                out.write(re.sub(r'access_log .*;', 'access_log  off;', text))

    def room(self, connections):
        """So many more for each worker: one may accept all of them."""
        file = os.path.join(RUN, 'conf/nginx.conf')
        text = open(file, encoding='utf-8').read()
        with open(file, 'w', encoding='utf-8') as out:
            out.write(re.sub(r'worker_connections\s+(\d+);', lambda found: f'worker_connections {int(found[1]) + connections};',
                             text.replace('worker_rlimit_nofile  16384;', 'worker_rlimit_nofile  65536;')))

    def configure(self, bodies):
        """bodies: class → bytes that `return 200` answers with, the same size as ours."""
        http = open(os.path.join(ROOT, 'scripts/bench.d/http.conf'), encoding='utf-8').read()
        http = http.replace('@objs@', os.path.join(ROOT, 'objs')).replace('@root@', ROOT)
        http = http.replace('@run@', RUN).replace('@uncached@', str(PORT + 1))
        server = ''
        for name, body in bodies.items():
            # a word of nginx.conf has at most 4 kB: longer bodies are put together from constants
            text = body.decode().replace('$', '_')
            parts = [text[i:i + 2000].replace('\\', '\\\\').replace("'", "\\'") for i in range(0, len(text), 2000)]
            names = [f'$bench_{name}_{i}' for i in range(len(parts))]
            if len(parts) > 1:
                http += ''.join(f"map $server_name {n} {{ default '{p}'; }}\n" for n, p in zip(names, parts))
                parts = names
            server += (f'location = /bench/{name} {{\n    default_type application/json;\n'
                       f"    return 200 '{''.join(parts)}';\n}}\n")
        server += ('location = /bench/located { commerce_auth required; commerce_limit bench; empty_gif; }\n'
                   'location = /bench/unguarded { empty_gif; }\n')
        for folder, text in ('http.d', http), ('server.d', server):
            with open(os.path.join(RUN, 'nginx', folder, 'bench.conf'), 'w', encoding='utf-8') as conf:
                conf.write(text)

    def reload(self):
        self.stack('reload')
        time.sleep(0.2)                 # the old workers leave; what is measured next must not share the cores
        self.script('wait-ready', self.url)

    def sql(self, text):
        return run('psql', '-X', '-At', '-d', self.env['COMMERCE_PGURL'], '-c', text).strip()

    def fetch(self, path, headers=None, body=None, method=None, port=None):
        request = urllib.request.Request(f'http://127.0.0.1:{port or PORT}{path}', headers=headers or {},
                                         data=None if body is None else json.dumps(body).encode(), method=method)
        if body is not None:
            request.add_header('Content-Type', 'application/json')
        with urllib.request.urlopen(request) as answer:
            return answer.read()

    def token(self):
        answer = json.loads(self.fetch('/api/v1/auth/login', body={
            'email': self.env['COMMERCE_EMAIL'], 'password': self.env['COMMERCE_PASSWORD']}))
        return answer['token']


class Cpu:
    """CPU seconds of the stack's processes, by kind."""

    def __init__(self, stack):
        self.files = {'nginx': os.path.join(RUN, 'nginx/nginx.pid'),
                      'postgres': os.path.join(RUN, 'postgres/postmaster.pid'),
                      'redis': os.path.join(RUN, 'redis/redis.pid'), 'kafka': os.path.join(RUN, 'kafka/kafka.pid')}

    def read(self):
        ticks = os.sysconf('SC_CLK_TCK')
        parents, used = {}, {}
        for pid in filter(str.isdigit, os.listdir('/proc')):
            try:
                fields = open(f'/proc/{pid}/stat').read().rpartition(') ')[2].split()
            except OSError:
                continue
            parents[int(pid)] = int(fields[1])
            # own time and that of children that have been waited for (a pgbench run's backends)
            used[int(pid)] = sum(map(int, fields[11:15])) / ticks
        total = {}
        for kind, file in self.files.items():
            try:
                root = int(open(file).readline())
            except (OSError, ValueError):
                continue
            total[kind] = sum(seconds for pid, seconds in used.items()
                              if pid == root or parents.get(pid) == root)
        return total


# answers that were no success: a row that has any says nothing
FAILED = {'ours': 0, 'limit': 0}


def complaints(many=5):
    with open(os.path.join(RUN, 'logs/error.log'), encoding='utf-8', errors='replace') as log:
        return [line.rstrip() for line in log if '[warn]' in line or '[error]' in line or '[crit]' in line or '[alert]' in line][-many:]


def wrk(stack, script, seconds, port=PORT, path='/', headers=(), connections=CONNECTIONS):
    """Closed loop; returns requests a second and the count."""
    command = ['wrk', '-t', '1', '-c', str(connections), '-d', f'{seconds}s']
    if script:
        command += ['-s', script]
    for header in headers:
        command += ['-H', header]
    out = run(*command, f'http://127.0.0.1:{port}{path}')
    errors = re.search(r'Non-2xx or 3xx responses: (\d+)', out)
    if errors and int(errors[1]) > 0:
        say(f'  ! {errors[1]} answers were not 2xx; the last lines of error.log:')
        for line in complaints():
            say(f'    {line}')
        FAILED['ours'] += int(errors[1])
    return float(re.search(r'Requests/sec:\s+([\d.]+)', out)[1]), int(re.search(r'(\d+) requests in', out)[1])


WARM = 2        # seconds in which a new connection of pgbench compiles and plans what the edge's connections keep


def pgbench(stack, text, seconds):
    """Closed loop on warm connections that plan as the edge's do; returns transactions a second and the count of all."""
    settings = stack.sql("SELECT setting FROM pg_db_role_setting, unnest(setconfig) AS setting WHERE setrole = 'commerce_edge'::regrole")
    file = os.path.join(RUN, 'bench.sql')
    with open(file, 'w', encoding='utf-8') as out:
        out.write(text)
    out = run('pgbench', '-n', '-M', 'prepared', '-c', str(CLIENTS), '-j', '1', '-T', str(seconds + WARM), '-P', '1', '-f',
              file, stack.env['COMMERCE_PGURL'], env=dict(os.environ, PGOPTIONS=' '.join(f'-c {s}' for s in settings.split())))
    failed = re.search(r'number of failed transactions: (\d+)', out)
    if failed and int(failed[1]) > 0:
        say(f'  ! {failed[1]} transactions of pgbench failed')
        FAILED['limit'] += int(failed[1])
    rates = [float(rate) for rate in re.findall(r'progress: [\d.]+ s, ([\d.]+) tps', out)]
    return statistics.mean(rates[WARM:]), int(re.search(r'actually processed: (\d+)', out)[1])


def openloop(requests, rate, seconds=4, port=PORT, connections=256, name='bench', server_core=None):
    """
    Latencies at a fixed rate (0: as fast as answers come); requests: list of bytes.  The generator comes first on the cores: customers have machines
    of their own.  With server_core the caller has given it a core, and the server that one.
    """
    def begin():
        if server_core is None and os.geteuid() == 0:
            os.nice(-10)
            with contextlib.suppress(OSError):
                # a nice value counts within a session only, where the kernel shares cores between these
                os.setsid()
                with open('/proc/self/autogroup', 'w', encoding='ascii') as group:
                    group.write('-10')

    file = os.path.join(RUN, f'{name}.requests')
    with open(file, 'wb') as out:
        for request in requests:
            out.write(b'%d\n%s' % (len(request), request))
    done = subprocess.run([os.path.join(ROOT, 'objs/openloop'), '127.0.0.1', str(port), file, str(rate),
                           str(seconds), str(connections)] + ([] if server_core is None else [str(server_core)]),
                          stdout=subprocess.PIPE, text=True, check=False, preexec_fn=begin)
    return json.loads(done.stdout) if done.stdout else {}


def request(method, path, headers=None, body=None):
    text = b'' if body is None else json.dumps(body).encode()
    lines = [f'{method} {path} HTTP/1.1', 'Host: localhost']
    lines += [f'{name}: {value}' for name, value in (headers or {}).items()]
    if body is not None:
        lines += ['Content-Type: application/json', f'Content-Length: {len(text)}']
    return ('\r\n'.join(lines) + '\r\n\r\n').encode() + text


def lua(name, text):
    file = os.path.join(RUN, f'bench-{name}.lua')
    with open(file, 'w', encoding='utf-8') as out:
        out.write(text)
    return file
