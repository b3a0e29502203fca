"""Draws the items of this example from ../../corpus, and makes the vocabulary that agents start from. The same seed gives
the same files."""

import collections
import pathlib
import random

HERE = pathlib.Path(__file__).parent
CORPUS = HERE.parent.parent / "corpus" / "king-james-bible.txt"
ITEMS = 300
TOKENS = 256


def main():
    lines = sorted({line.strip() for line in CORPUS.read_text().split("\n") if len(line) >= 60})
    drawn = random.Random(402).sample(lines, 2 * ITEMS)
    parts = {"public": drawn[:ITEMS], "held-out": drawn[ITEMS:]}
    for name, part in parts.items():
        (HERE / name).mkdir(exist_ok=True)
        (HERE / name / "inputs").write_text("".join(line + "\n" for line in part))
    pairs = collections.Counter(a + b for line in parts["public"] for a, b in zip(line, line[1:]))
    frequent = sorted(pairs, key=lambda pair: (-pairs[pair], pair))[:TOKENS]
    (HERE / "workspace").mkdir(exist_ok=True)
    (HERE / "workspace" / "vocab.txt").write_text("".join(token + "\n" for token in sorted(frequent)))


main()
