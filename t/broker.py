"""A broker of Apache Kafka beside the shop, seen through kcat, which knows nothing of the shop."""

import datetime
import json
import subprocess

from stack import free_ports, wait_for


class Broker:
    """brokers: where it listens.  waiting, last: the events that were to be sent when it began, and the last one of all: the first, and
    what came after the last, come to topics.  short: see everything()."""

    def __init__(self, shop, port):
        self.shop, self.brokers, self.short = shop, f"127.0.0.1:{port}", []
        self.waiting, self.last = [], 0

    @classmethod
    def beside(cls, shop, **configuration):
        """A new one, and an nginx that relays to it and consumes from it, with this configuration."""
        # the controller has the next one
        port, = free_ports(1, with_next=True)
        shop.run("init", f"KAFKA_PORT={port}")
        shop.configure(**configuration)
        shop.stop("nginx")
        made = cls(shop, port)
        made.waiting = shop.value("SELECT coalesce(array_agg(id), '{}') FROM event.unsent")
        made.last = shop.value("SELECT coalesce(max(id), 0) FROM event.outbox")
        shop.start("kafka", "nginx")
        return made

    def end(self):
        """The shop is without one again."""
        self.shop.stop("nginx")
        self.shop.kill("kafka")
        self.shop.run("init", "KAFKA_PORT=")
        self.shop.configure()
        self.shop.start("nginx")

    def kcat(self, *arguments, data=None, check=True):
        return subprocess.run(["kcat", "-b", self.brokers, "-q", *arguments], input=data, capture_output=True, timeout=60, check=check)

    def read(self, topic):
        """All that kcat finds in the topic: topic, partition, offset, headers (a list), key, payload (text); and what it says at its end."""
        done = self.kcat("-C", "-t", topic, "-o", "beginning", "-e", "-J", check=False)
        records = [json.loads(line) for line in done.stdout.decode(errors="replace").splitlines()]
        for record in records:
            record["headers"] = dict(zip(*[iter(record.get("headers", []))] * 2))
        return records, f"exit code {done.returncode}, {done.stderr.decode(errors='replace').strip() or 'not a word'}"

    def records(self, topic):
        """What kcat finds in the topic: for those who look again."""
        return self.read(topic)[0]

    def partitions(self, topic):
        return [p["partition"] for p in json.loads(self.kcat("-L", "-t", topic, "-J").stdout)["topics"][0]["partitions"]]

    def size(self, topic):
        """How many records its partitions have room for, which is what they hold: nothing here is compacted or part of a transaction."""
        places = [part for p in self.partitions(topic) for part in ("-t", f"{topic}:{p}:-1")]
        return sum(int(line.split()[-1]) for line in self.kcat("-Q", *places).stdout.splitlines()) if places else 0

    def everything(self, topic):
        """All records: kcat may end before the topic does, on a machine that is too busy, and "short" keeps what it said then."""
        def read():
            (records, said), size = self.read(topic), self.size(topic)
            if len(records) == size:
                return [records]
            self.short.append(f"kcat found {len(records)} of the {size} records of {topic}: {said}")
            return None
        return wait_for(read, 60, f"{topic} is read to its end")[0]

    def dump(self, topic, word):
        """The records with this word in the files of the topic, as Kafka's own tool reads them, which checks them too."""
        text = self.shop.run("--run", self.shop.folder, "dump", topic, script="scripts/kafka", check=False).stdout
        return [line.strip()[:300] for line in text.splitlines() if word in line or "error" in line.lower()]

    def set(self, topic, value):
        """A property of a topic, "key=value"."""
        self.shop.run("--run", self.shop.folder, "set", self.brokers.split(":")[1], topic, value, script="scripts/kafka")

    def around(self, when):
        """Lines of the broker's log and of nginx's in the quarter of a minute before and after."""
        found = []
        for name, form in ("kafka.log", "%Y-%m-%d %H:%M:%S"), ("error.log", "%Y/%m/%d %H:%M:%S"):
            first, last = ((when + datetime.timedelta(seconds=s)).strftime(form) for s in (-15, 15))
            lines = (self.shop.folder / "logs" / name).read_text(errors="replace").splitlines()
            found += [f"{name}: {line[:300]}" for line in lines if first <= line[:19] <= last]
        return found

    def produce(self, topic, value, key="1:x", **headers):
        arguments = [part for name, text in headers.items() for part in ("-H", f"{name}={text}")]
        # -Z: what is empty is a record without a value
        self.kcat("-P", "-t", topic, "-K", "|", "-D", "<end>", "-Z", *arguments, data=key.encode() + b"|" + value + b"<end>")
