"""What reviews sound like (K2, K3): read in the worker, by a model that is a file."""

import lzma
import os
import pathlib
import random
import struct
import subprocess
import threading
import time

import pytest

from shared import shared
from stack import ROOT, files_limit, limit_files, wait_for
from world import made

TRAIN = ROOT / "objs" / "commerce-train"
GOOD = "I love it, it works perfectly and the quality is excellent. Highly recommended!"
BAD = "It broke after a week. Terrible quality, a waste of money, I want my money back."
GERMAN = "Ich habe das gekauft und es ist leider nicht gut, die Lampe war sehr billig gemacht."
FIELDS = ("sentiment_score", "sentiment_label", "sentiment_confidence", "sentiment_analyzed_at")


class Models:
    """Puts model files in place as an operator does."""

    def __init__(self, shop):
        self.shop, self.file = shop, shop.folder / "models" / "sentiment.model"
        self.work = shop.folder / "sentiment"
        self.work.mkdir(exist_ok=True)

    def train(self, count=2000, seed=1):
        """A model of so many of the demo's reviews."""
        out = self.work / f"{count}.{seed}.model"
        if not out.exists():
            text = subprocess.run([ROOT / "demo" / "reviews.py", "--count", str(count), "--seed", str(seed)], check=True,
                                  capture_output=True).stdout
            (self.work / "reviews.tsv").write_bytes(text)
            subprocess.run([TRAIN, "sentiment", "fit", "--train", self.work / "reviews.tsv", "--out", out, "--bits", "16"], check=True,
                           capture_output=True)
        return out

    def put(self, data):
        """By rename(), an older time so that nothing is taken for half-written."""
        data = data if isinstance(data, bytes) else pathlib.Path(data).read_bytes()
        temporary = self.file.with_suffix(".new")
        temporary.write_bytes(data)
        old = time.time() - 5 - random.random()
        os.utime(temporary, (old, old))
        temporary.rename(self.file)

    def used(self):
        """The models of the workers: number of reviews each was trained on, None for none."""
        found = set()
        with self.shop.staff() as staff, self.shop.each_worker(headers=dict(staff.headers)) as workers:
            for edge in workers.values():
                model = made(edge.post("/api/v1/sentiment", json={"text": GOOD}))["model"]
                found.add(model and model["reviews"])
        return found

    def publish(self, count=2000, seed=1):
        self.put(self.train(count, seed))
        wait_for(lambda: self.used() == {count}, 20, f"both workers use the model of {count} reviews")


@pytest.fixture(scope="module")
def models(shop):
    return Models(shop)


@pytest.fixture
def trained(models):
    models.publish()
    return models


@pytest.fixture
def product(shop):
    return shop.value("SELECT p.id FROM shop.product p JOIN shop.product_card c ON c.tenant_id = 1 AND c.product_id = p.id "
                      "WHERE p.tenant_id = 1 ORDER BY random() LIMIT 1")


def write(edge, product, comment):
    return made(edge.post(f"/api/v1/products/{product}/reviews", json={"rating": 3, "comment": comment}), 201)


def nothing(review):
    return [review[name] for name in FIELDS] == [None] * 4


def crowd(shop, *numbers):
    people = shop.customers(max(numbers) + 1)
    return [shop.edge(token=people[n][1]) for n in numbers]


# ---- without a model ----

def test_without_a_model_there_is_no_sentiment_and_no_error(shop, models, product, staff):
    assert not models.file.exists(), "this test comes first"
    (customer,) = crowd(shop, 0)
    assert nothing(write(customer, product, GOOD))
    assert made(staff.post("/api/v1/sentiment", json={"text": GOOD})) == {"score": None, "label": None, "confidence": None, "model": None}
    assert made(staff.post("/api/v1/admin/reviews/analyze", json={}))["analyzed"] == 0
    assert models.used() == {None}


# ---- with one ----

def test_reviews_are_read_when_they_are_written(shop, trained, product):
    good, bad, german = crowd(shop, 1, 2, 3)
    review = write(good, product, GOOD)
    assert (review["sentiment_label"], review["sentiment_score"] > 0.5, 0.5 <= review["sentiment_confidence"] <= 1) == (
        "positive", True, True)
    assert review["sentiment_analyzed_at"] == review["created_at"]
    path = f"/api/v1/reviews/{review['id']}"
    changed = made(good.patch(path, json={"comment": BAD}))
    assert (changed["sentiment_label"], changed["sentiment_score"] < -0.5) == ("negative", True)
    same = made(good.patch(path, json={"rating": 1}))
    assert [same[name] for name in FIELDS] == [changed[name] for name in FIELDS]
    again = made(good.put(path, json={"rating": 5, "comment": GOOD}))
    assert again["sentiment_score"] == review["sentiment_score"]
    assert write(bad, product, BAD)["sentiment_label"] == "negative"
    foreign = write(german, product, GERMAN)
    assert foreign["sentiment_analyzed_at"] and [foreign[name] for name in FIELDS[:3]] == [None] * 3
    row = shop.rows("SELECT sentiment_score, sentiment_label FROM shop.review WHERE tenant_id = 1 AND id = %s", review["id"])[0]
    assert row["sentiment_label"] == "positive" and row["sentiment_score"] == pytest.approx(review["sentiment_score"], abs=1e-4)


def test_one_text_and_many(shop, trained, staff):
    one = made(staff.post("/api/v1/sentiment", json={"text": BAD}))
    assert one["label"] == "negative" and one["model"]["reviews"] == 2000
    texts = [GOOD, BAD, GERMAN, "The box is blue.", "Nothing to complain about, it never fails."]
    many = made(staff.post("/api/v1/sentiment/batch", json={"texts": texts}))
    alone = [made(staff.post("/api/v1/sentiment", json={"text": text})) for text in texts]
    assert many["data"] == [{k: v for k, v in a.items() if k != "model"} for a in alone]
    assert [d["label"] for d in many["data"]][:3] == ["positive", "negative", None]
    assert len(made(staff.post("/api/v1/sentiment/batch", json={"texts": [GOOD] * 100}))["data"]) == 100
    for body in ({"texts": []}, {"texts": [GOOD] * 101}, {"texts": [1]}, {"texts": ["x" * 5001]}):
        assert staff.post("/api/v1/sentiment/batch", json=body).status_code == 422
    with shop.user() as customer:
        assert customer.post("/api/v1/sentiment", json={"text": GOOD}).status_code == 403


def test_the_scores_are_those_of_the_trainer(shop, trained, staff):
    """The edge and the command give one text one score."""
    texts = [line.split("\t")[1] for line in (trained.work / "reviews.tsv").read_text().splitlines()[:60]]
    said = subprocess.run([TRAIN, "sentiment", "score", "--model", trained.train()], input="\n".join(texts), text=True, check=True,
                          capture_output=True).stdout.splitlines()
    found = made(staff.post("/api/v1/sentiment/batch", json={"texts": texts}))["data"]
    assert [f'"label":"{d["label"]}"' in line for d, line in zip(found, said)] == [True] * 60
    assert [f'"score":{d["score"]:.4f}' in line for d, line in zip(found, said)] == [True] * 60


def test_history_of_a_customer(shop, trained, staff):
    (customer,) = crowd(shop, 4)
    user = shop.value("SELECT id::text FROM shop.app_user WHERE tenant_id = 1 AND email = 'crowd5@example.com'")
    products = [row["product_id"] for row in shop.rows("SELECT product_id FROM shop.product_card WHERE tenant_id = 1 LIMIT 4")]
    for one, text in zip(products, (GOOD, BAD, GERMAN, GOOD)):
        write(customer, one, text)
    path = f"/api/v1/admin/users/{user}/sentiment"
    told = made(staff.get(path))
    assert [r["sentiment_label"] for r in told["data"]] == ["positive", None, "negative", "positive"]
    summary = told["summary"]
    assert (summary["reviews"], summary["analyzed"], summary["positive"], summary["neutral"], summary["negative"]) == (4, 3, 2, 0, 1)
    scores = [r["sentiment_score"] for r in told["data"] if r["sentiment_score"] is not None]
    assert summary["average_score"] == pytest.approx(sum(scores) / 3, abs=1e-3)
    first = made(staff.get(path, params={"limit": 3}))
    assert made(staff.get(path, params={"limit": 3, "cursor": first["page"]["next"]}))["data"] == told["data"][3:]
    assert staff.get("/api/v1/admin/users/00000000-0000-7000-8000-000000000001/sentiment").status_code == 404
    assert shop.staff("acme").get(path).status_code == 404


def test_imported_reviews_are_read_later(shop, trained, staff):
    assert shop.value("SELECT count(*) > 100 FROM shop.review WHERE tenant_id = 1 AND sentiment_analyzed_at IS NULL")
    rounds = 0
    while True:
        done = made(staff.post("/api/v1/admin/reviews/analyze", json={}))
        rounds += 1
        if done["remaining"] == 0:
            break
        assert done["analyzed"] == 100 and rounds < 50
    assert shop.value("SELECT count(*) = 0 FROM shop.review WHERE tenant_id = 1 AND sentiment_analyzed_at IS NULL AND deleted_at IS NULL")
    labels = {row["label"] for row in shop.rows("SELECT DISTINCT sentiment_label AS label FROM shop.review WHERE tenant_id = 1")}
    assert {"positive", "negative"} <= labels
    negative = made(staff.get("/api/v1/admin/reviews", params={"sentiment": "negative", "limit": 100, "sort": "sentiment"}))["data"]
    scores = [r["sentiment_score"] for r in negative]
    assert scores == sorted(scores) and {r["sentiment_label"] for r in negative} == {"negative"}


# ---- the file ----

def damaged(good):
    """Files that are no models, each in its own way."""
    rng = random.Random(5)
    yield b""
    yield b"\0" * 4096
    yield good[:len(good) // 2]
    yield good[:63]
    yield good + b"x"
    yield struct.pack("<I", 0x0badf00d) + good[4:]
    for _ in range(12):
        at = rng.randrange(len(good))
        yield good[:at] + bytes([good[at] ^ 1 << rng.randrange(8)]) + good[at + 1:]
    yield rng.randbytes(100000)


def test_a_damaged_file_is_told_about_and_the_model_stays(shop, trained):
    good = trained.file.read_bytes()
    before = {row["pid"] for row in [{"pid": pid} for pid in shop.workers()]}
    for number, data in enumerate(damaged(good)):
        mark = len(shop.log_lines())
        trained.put(data)
        wait_for(lambda mark=mark: sum("commerce_sentiment_model" in line and "the one before it stays" in line
                                       for line in shop.log_lines()[mark:]) >= 2, 20, f"both workers refuse file {number}")
    assert trained.used() == {2000}
    assert set(shop.workers()) == before
    trained.publish(1000)


def test_the_file_may_be_cut_off_or_taken_away(shop, trained, staff):
    """Under the edge's feet: it reads a copy."""
    before = shop.workers()
    with open(trained.file, "r+b") as f:
        f.truncate(10)
    for _ in range(30):
        assert made(staff.post("/api/v1/sentiment", json={"text": BAD}))["label"] == "negative"
    trained.file.unlink()
    trained.file.mkdir()
    try:
        wait_for(lambda: any("not a regular file" in line for line in shop.log_lines()), 20, "a folder is told about")
    finally:
        trained.file.rmdir()                    # a model cannot be renamed over it
    os.mkfifo(trained.file)
    assert trained.used() == {2000}
    trained.file.unlink()
    assert shop.workers() == before


def test_a_refusal_lasts_as_long_as_its_file(shop, trained):
    """Told about again when it was taken away and is back; used as soon as it can be read."""
    def told(mark, words):
        return sum("is no model" in line and words in line for line in shop.log_lines()[mark:])

    mark = len(shop.log_lines())
    trained.put(b"no model")
    wait_for(lambda: told(mark, "the one before it stays") == 2, 20, "both workers refuse it")
    kept = trained.file.with_suffix(".kept")
    trained.file.rename(kept)
    assert trained.used() == {2000}
    kept.rename(trained.file)
    wait_for(lambda: told(mark, "the one before it stays") == 4, 20, "both workers refuse it again")
    trained.publish(2000)
    if os.getuid() != 0:
        return
    model = trained.file.with_suffix(".new")
    model.write_bytes(trained.train(1000).read_bytes())
    model.chmod(0)
    old = time.time() - 5
    os.utime(model, (old, old))
    mark = len(shop.log_lines())
    model.rename(trained.file)
    wait_for(lambda: told(mark, "cannot be opened") == 2, 20, "nobody may read it")
    assert trained.used() == {2000}
    trained.file.chmod(0o644)
    wait_for(lambda: trained.used() == {1000}, 20, "now they may")
    trained.publish(2000)


def test_a_file_for_which_there_is_no_descriptor_is_tried_again(shop, trained):
    """Nothing is wrong with it: the worker says once that it has to wait, and takes it as soon as it can."""
    def told(words):
        return sum(f" {worker}#" in line and words in line for line in shop.log_lines()[mark:])

    shop.expect_log(r"24: Too many open files")
    worker = shop.workers()[0]
    mark, most = len(shop.log_lines()), files_limit(worker)
    limit_files(worker, 3)
    try:
        trained.put(trained.train(1000))
        wait_for(lambda: told("has to wait: it cannot be opened"), 20, "the worker has no descriptor for it")
    finally:
        limit_files(worker, most)
    wait_for(lambda: trained.used() == {1000}, 20, "both take the file, which nobody has touched")
    assert (told("has to wait"), told("is no model")) == (1, 0)
    trained.publish(2000)


def test_a_worker_has_the_model_from_its_first_request_on(shop, trained):
    shop.reload()
    assert trained.used() == {2000}
    shop.kill_worker()
    shop.ready()
    assert trained.used() == {2000}


def test_replaced_under_load(shop, trained, product):
    """Every answer is of one model or the other, and none fails."""
    trained.train(1000)
    token = shop.staff().headers["Authorization"]
    expected, wrong, count, stop = {}, [], [0], threading.Event()
    for size in (1000, 2000):
        trained.publish(size)
        expected[size] = made(shop.staff().post("/api/v1/sentiment/batch", json={"texts": [GOOD, BAD]}))["data"]

    def ask():
        with shop.edge(headers={"Authorization": token}) as edge:
            while not stop.is_set():
                answer = edge.post("/api/v1/sentiment/batch", json={"texts": [GOOD, BAD]})
                body = answer.json()
                if answer.status_code != 200 or body["data"] != expected[body["model"]["reviews"]]:
                    wrong.append(answer.text)
                count[0] += 1

    askers = [threading.Thread(target=ask) for _ in range(4)]
    for asker in askers:
        asker.start()
    try:
        for _ in range(3):
            trained.publish(1000)
            trained.publish(2000)
    finally:
        stop.set()
        for asker in askers:
            asker.join()
    assert not wrong and count[0] > 50


# ---- how good ----

def test_on_reviews_of_others(shop, models, staff):
    """A model of real reviews through the edge: as good on reviews that it has not seen as the trainer says."""
    folder = shared("sentiment", "fdu-mtl-train")
    train, test = models.work / "real.tsv", []
    with train.open("wb") as f:
        for file in sorted(folder.glob("*.xz")):
            data = lzma.decompress(file.read_bytes())
            if "kitchen" in file.name:
                test = [line.split("\t", 1) for line in data.decode(errors="ignore").splitlines()]
            else:
                f.write(data.rstrip(b"\n") + b"\n")
    model = models.work / "real.model"
    subprocess.run([TRAIN, "sentiment", "fit", "--train", train, "--out", model], check=True, capture_output=True)
    models.put(model)
    reviews = sum(1 for line in train.open("rb"))
    wait_for(lambda: models.used() == {reviews}, 20, "both workers use the real model")
    right = answered = 0
    sample = random.Random(3).sample([t for t in test if 0 < len(t[1].strip()) <= 1200], 400)
    for i in range(0, len(sample), 100):
        part = sample[i:i + 100]
        found = made(staff.post("/api/v1/sentiment/batch", json={"texts": [text for _, text in part]}))["data"]
        for (label, _), said in zip(part, found):
            if said["score"] is not None:
                answered += 1
                right += (said["score"] > 0) == (label == "1")
    assert answered > 380 and right / answered > 0.83
