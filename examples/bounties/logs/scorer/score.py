"""Bytes of all compressed items, and of the codec itself. That they can be decompressed was checked in another box."""

import base64
import os
import pathlib


def size(answer):
    try:
        packed = base64.b64decode(answer, validate=True)
    except ValueError:
        return len(answer)
    # Spare bits that say something would be bytes that nobody counts.
    return len(packed) if base64.b64encode(packed) == answer else len(answer)


answers = pathlib.Path("/in/answers").read_bytes().split(b"\n")[:-1]
print(sum(map(size, answers)) + int(os.environ["SOURCE_BYTES"]))
