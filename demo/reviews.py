#!/usr/bin/env python3
"""Reviews of nobody: label<TAB>text lines to train the demo's sentiment model on, the same for the same seed.

usage: demo/reviews.py [--count 6000] [--seed 1]

Each is put together of clauses that people use of things they have bought: openings that say nothing, praise, blame, remarks in between,
negations of both. 1 is a good review, 0 a bad one.
"""

import argparse
import random

THINGS = """lamp kettle chair backpack jacket mug notebook speaker blender pan knife pillow blanket headphones charger bottle tent camera
keyboard mouse clock rug shelf toaster shirt sweater wallet watch umbrella puzzle desk curtain basket scarf tray bowl vase teapot""".split()
OPENINGS = [
    "I bought this {t} for my kitchen", "I ordered the {t} last month", "This {t} was a gift for my sister",
    "We have had this {t} for a few weeks", "My second {t} from this shop", "I was looking for a {t} for a long time",
    "Got the {t} yesterday", "My husband uses this {t} every day", "I have used the {t} since spring",
    "I read the other reviews before I bought the {t}", "The {t} came in a brown box", "First impression of the {t}",
]
GOOD_WORDS = """great excellent wonderful perfect beautiful lovely fantastic amazing brilliant superb solid sturdy comfortable reliable elegant
impressive delightful outstanding flawless pleasant handy""".split()
BAD_WORDS = """terrible awful poor horrible useless disappointing cheap flimsy ugly uncomfortable unreliable defective faulty dreadful shoddy
annoying worthless mediocre frustrating broken wobbly""".split()
PARTS = "quality design finish handle lid material colour stitching surface packaging fit sound battery switch zip hinge smell price instructions".split()
GOOD = [
    "it works perfectly", "I love it", "it was easy to set up", "it looks even better than in the pictures",
    "I would buy it again", "highly recommended", "the {p} is {g}", "the {p} is really {g}", "such a {g} {t}",
    "a {g} {t}", "it feels {g}", "worth every penny", "it arrived early and well packed",
    "it exceeded my expectations", "my whole family enjoys it", "customer service was friendly and helpful",
    "it does exactly what it should", "best {t} I have ever owned", "I am very happy with it",
    "very pleased with the {p}", "five stars", "it still looks like new", "it has not let me down",
    "no complaints at all", "nothing to complain about", "I could not be happier", "it never fails",
    "good value for the money", "thank you for a {g} product", "I use it every day and enjoy it",
]
BAD = [
    "it broke after a week", "it stopped working", "I want my money back", "I returned it", "do not buy this",
    "a waste of money", "the {p} is {b}", "the {p} is really {b}", "such a {b} {t}", "a {b} {t}", "it feels {b}",
    "it arrived damaged", "it arrived late and scratched", "parts were missing", "it never worked",
    "it does not work", "it did not fit", "customer service did not answer", "worst {t} I have ever owned",
    "I am very disappointed", "not happy with the {p}", "one star", "it fell apart",
    "it looks nothing like the pictures", "I regret buying it", "I would not recommend it",
    "it is not worth the price", "it is not good", "save your money", "it leaks", "the {p} came off after two days",
    "it was a big disappointment", "unfortunately it failed",
]
BETWEEN = [
    "it is a little smaller than I thought", "the colour is blue", "it came with instructions",
    "delivery took four days", "it stands in the hall now", "I have two of them", "it is made of wood",
    "it weighs about a kilo", "we use it on weekends", "I paid the usual price",
]
JOINTS = [". ", ", and ", ". ", "; ", "! ", ". Also ", ". "]


def clause(rng, kind, thing):
    return rng.choice(kind).format(t=thing, p=rng.choice(PARTS), g=rng.choice(GOOD_WORDS), b=rng.choice(BAD_WORDS))


def review(rng, good):
    thing = rng.choice(THINGS)
    ours, theirs = (GOOD, BAD) if good else (BAD, GOOD)
    parts = [clause(rng, ours, thing) for _ in range(rng.choice((1, 2, 2, 3)))]
    if rng.random() < 0.25:
        parts.insert(rng.randrange(len(parts) + 1), clause(rng, BETWEEN, thing))
    text = parts[0]
    for part in parts[1:]:
        text += rng.choice(JOINTS) + part
    if len(parts) > 1 and rng.random() < 0.15:
        # the other side of it, before what counts
        text = clause(rng, theirs, thing) + ", but " + text
    if rng.random() < 0.6:
        text = clause(rng, OPENINGS, thing) + rng.choice((". ", " and ", ", ")) + text
    return text[0].upper() + text[1:] + rng.choice((".", ".", "!", ""))


def main():
    parser = argparse.ArgumentParser(description="Reviews to train the demo's sentiment model on.")
    parser.add_argument("--count", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    for i in range(options.count):
        print(f"{1 - i % 2}\t{review(rng, i % 2 == 0)}")


if __name__ == "__main__":
    main()
