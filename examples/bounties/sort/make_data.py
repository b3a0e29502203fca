"""Makes the items of this example: keys of four letters, in no order. The same seed gives the same files."""

import pathlib
import random

LETTERS = "abcdefghijklmnopqrstuvwxyz"
KEYS = 300


def part(rng, folder, items):
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "inputs", "w") as inputs:
        for _ in range(items):
            inputs.write("".join(rng.choice(LETTERS) for _ in range(4 * KEYS)) + "\n")


def main():
    here = pathlib.Path(__file__).parent
    rng = random.Random(402)
    part(rng, here / "public", 32)
    part(rng, here / "held-out", 32)


main()
