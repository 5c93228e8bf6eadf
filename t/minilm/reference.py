#!/usr/bin/env python3
"""Makes reference.json: vectors by sentence-transformers itself, which commerce-train is compared with.

usage: reference.py MODEL_FOLDER > reference.json

Needs sentence-transformers (with torch, gigabytes); the test needs only what it has written. Texts are the demo's products
and reviews, paragraphs of docs/, and what tokenizers stumble over. A vector is 384 signed bytes in base64, its greatest number 127: that costs
4e-5 of a cosine.
"""

import base64
import json
import pathlib
import sys

import sentence_transformers

ODD = [
    "", "   ", "a", "!", "a" * 100, "a" * 101, "a" * 5000, "x " * 600, "word " * 253, "word " * 254, "word " * 255,
    "HÉLLO Wörld $5 [SEP] 日本語 x", "ﬁﬂ ﬀ İstanbul ıI ẞß", "안녕하세요 세계", "Привет, МИР! Ёлка й", "Ωμέγα ΆΈΉ",
    "नमस्ते दुनिया", "مرحبا بالعالم", "שלום עולם", "😀 emoji 👍🏽 test", "a\u200bb\u200dc", "\u00a0nbsp\u3000x", "x\u0000y",
    "zero\ufffdwidth", "e\u0301\u0327", "[MASK] [CLS][UNK][PAD]", "lower[sep]", "½ ¼ ² ™ © ® €", "“quotes” ‘x’ —dash– …",
    "don't can't", "C++ C# .NET 3.14 1,000", "ไทย ภาษา", "ὁ Ἀριστοτέλης", "ǅ Ǆ ǆ", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢", "豈 更 車",
    "\ue000 private", "tab\tsep", "\x0b\x0cvertical", "ÅÅ Å", "Ⅷ ⅷ", "ZÜRICH zürich Zu\u0308rich", "100% cotton, 2×4 m, 5° below",
    "antidisestablishmentarianism pneumonoultramicroscopicsilicovolcanoconiosis", "....", "a.b.c.d", "\\ / | ~ ` ^ _ = +",
]


ROOT = pathlib.Path(__file__).parents[2]
PARAGRAPHS = 200


def texts():
    for product in json.loads((ROOT / "demo/catalogue.json").read_text(encoding="utf-8")):
        yield " ".join((product["title"], product["description"], *product["tags"], product["category"], product["brand"]))
        yield from (review["comment"] for review in product["reviews"])
    paragraphs = [" ".join(p.split()) for path in sorted((ROOT / "docs").glob("*.md"))
                  for p in path.read_text(encoding="utf-8").split("\n\n") if len(p) > 100]
    yield from paragraphs[::len(paragraphs) // PARAGRAPHS + 1]
    yield from ODD


def main():
    model = sentence_transformers.SentenceTransformer(sys.argv[1], device="cpu")
    every = list(dict.fromkeys(texts()))
    rows = []
    for text, vector in zip(every, model.encode(every, normalize_embeddings=True)):
        top = abs(vector).max()
        rows.append({"text": text, "vector": base64.b64encode(bytes(round(float(x) / top * 127) & 255 for x in vector)).decode()})
    json.dump({"by": f"sentence-transformers {sentence_transformers.__version__}", "tokens": model.max_seq_length, "rows": rows},
              sys.stdout, ensure_ascii=True, indent=0)
    print()


if __name__ == "__main__":
    main()
