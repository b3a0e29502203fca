"""Draws the digits of this example: ten glyphs, shifted, with noise. The same seed gives the same files."""

import pathlib
import random

GLYPHS = [
    ["..##..", ".#..#.", ".#..#.", ".#..#.", ".#..#.", "..##.."],
    ["...#..", "..##..", "...#..", "...#..", "...#..", "..###."],
    ["..##..", ".#..#.", "....#.", "...#..", "..#...", ".####."],
    [".###..", "....#.", "..##..", "....#.", "....#.", ".###.."],
    ["...##.", "..#.#.", ".#..#.", ".####.", "....#.", "....#."],
    [".####.", ".#....", ".###..", "....#.", ".#..#.", "..##.."],
    ["..##..", ".#....", ".###..", ".#..#.", ".#..#.", "..##.."],
    [".####.", "....#.", "...#..", "...#..", "..#...", "..#..."],
    ["..##..", ".#..#.", "..##..", ".#..#.", ".#..#.", "..##.."],
    ["..##..", ".#..#.", ".#..#.", "..###.", "....#.", "..##.."],
]


def draw(rng, digit):
    """64 grey values from 0 to 9: a glyph somewhere in 8 by 8 pixels."""
    left, top = rng.randrange(3), rng.randrange(3)
    pixels = [0.0] * 64
    for y, row in enumerate(GLYPHS[digit]):
        for x, mark in enumerate(row):
            if mark == "#":
                pixels[(y + top) * 8 + x + left] = 7.0
    return [min(9, max(0, round(value + rng.gauss(0.5, 1.8)))) for value in pixels]


def part(rng, folder, items):
    folder.mkdir(parents=True, exist_ok=True)
    labels = [rng.randrange(10) for _ in range(items)]
    inputs = ["".join(map(str, draw(rng, label))) for label in labels]
    (folder / "inputs").write_text("".join(line + "\n" for line in inputs))
    (folder / "labels").write_text("".join(f"{label}\n" for label in labels))


def main():
    here = pathlib.Path(__file__).parent
    rng = random.Random(402)
    part(rng, here / "workspace" / "train", 800)
    part(rng, here / "public", 300)
    part(rng, here / "held-out", 600)


main()
