"""The part of the items that are labelled right."""

import pathlib

SCORED = pathlib.Path("/in")
labels = (SCORED / "labels").read_bytes().split(b"\n")[:-1]
answers = (SCORED / "answers").read_bytes().split(b"\n")[:-1]
right = sum(label == answer for label, answer in zip(labels, answers, strict=True))
# Whole numbers to the last digit, so that every machine prints the same.
print(f"{right * 10_000 // len(labels) // 10_000}.{right * 10_000 // len(labels) % 10_000:04}")
