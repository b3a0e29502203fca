"""Fuel for all items, if every one of them is sorted; otherwise more than any kernel may use."""

import os
import pathlib

items = pathlib.Path("/in/inputs").read_text().splitlines()
answers = pathlib.Path("/in/answers").read_text().split("\n")[:-1]


def sorted_keys(item):
    return "".join(sorted(item[at : at + 4] for at in range(0, len(item), 4)))


right = all(answer == sorted_keys(item) for item, answer in zip(items, answers, strict=True))
print(os.environ["FUEL"] if right else 1_000_000_000)
