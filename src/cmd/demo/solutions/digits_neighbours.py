"""Tells digits apart: the class whose mean image is nearest."""

import pathlib
import sys

TRAIN = pathlib.Path(__file__).parent / "train"


def pixels(line):
    return [int(digit) for digit in line]


def main():
    images = [pixels(line) for line in (TRAIN / "inputs").read_text().split()]
    labels = (TRAIN / "labels").read_text().split()
    for line in sys.stdin:
        image = pixels(line.strip())
        near = sorted((sum((a - b) ** 2 for a, b in zip(image, other)), label) for other, label in zip(images, labels))
        votes = [label for _, label in near[:7]]
        print(max(sorted(set(votes)), key=votes.count))


main()
