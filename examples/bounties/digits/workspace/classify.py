"""Tells digits apart: the class whose mean image is nearest."""

import pathlib
import sys

TRAIN = pathlib.Path(__file__).parent / "train"


def pixels(line):
    return [int(digit) for digit in line]


def main():
    images = [pixels(line) for line in (TRAIN / "inputs").read_text().split()]
    labels = (TRAIN / "labels").read_text().split()
    means = {}
    for label in sorted(set(labels)):
        of_class = [image for image, own in zip(images, labels) if own == label]
        means[label] = [sum(column) / len(of_class) for column in zip(*of_class)]
    for line in sys.stdin:
        image = pixels(line.strip())
        distance = lambda label: sum((a - b) ** 2 for a, b in zip(image, means[label]))
        print(min(means, key=distance))


main()
