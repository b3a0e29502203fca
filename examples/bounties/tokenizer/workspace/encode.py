"""Splits each line into tokens of vocab.txt: the longest that fits, again and again, and one character where none does.

No target: only vocab.txt may change. It has one token a line, spaces included."""

import pathlib
import sys

MOST_TOKENS = 256
MOST_CHARACTERS = 16
SEPARATOR = "\t"


def read(path):
    tokens = {line for line in path.read_text().split("\n") if line}
    if len(tokens) > MOST_TOKENS or any(len(token) > MOST_CHARACTERS for token in tokens):
        sys.exit(f"vocab.txt may have {MOST_TOKENS} tokens of {MOST_CHARACTERS} characters")
    return tokens


def encode(tokens, text):
    at = 0
    while at < len(text):
        longest = next((text[at : at + n] for n in range(MOST_CHARACTERS, 1, -1) if text[at : at + n] in tokens), text[at])
        yield longest
        at += len(longest)


def main():
    tokens = read(pathlib.Path("/task/vocab.txt"))
    for line in sys.stdin:
        print(SEPARATOR.join(encode(tokens, line.rstrip("\n"))))


main()
