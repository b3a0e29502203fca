"""Tokens for each 1,000 bytes. Believes nothing: tokens must give their item back, and be few in all."""

import pathlib

MOST_TOKENS = 256
MOST_CHARACTERS = 16
SEPARATOR = "\t"

items = pathlib.Path("/in/inputs").read_text().split("\n")[:-1]
answers = pathlib.Path("/in/answers").read_text().split("\n")[:-1]
encoded = [answer.split(SEPARATOR) for answer in answers]
used = {token for tokens in encoded for token in tokens if len(token) > 1}
few = len(used) <= MOST_TOKENS and all(len(token) <= MOST_CHARACTERS for token in used)

count = 0
size = 0
for item, tokens in zip(items, encoded, strict=True):
    right = few and "".join(tokens) == item and all(tokens)
    # What doesn't come back costs a token a byte.
    count += len(tokens) if right else len(item.encode())
    size += len(item.encode())
# Whole numbers to the last digit, so that every machine prints the same.
tenths = count * 10_000 // size
print(f"{tenths // 10}.{tenths % 10}")
