"""Bytes of all compressed items, and of the codec itself. That they can be decompressed was checked in another box."""

import base64
import os
import pathlib

answers = pathlib.Path("/in/answers").read_text().splitlines()
packed = sum(len(base64.b64decode(answer, validate=True)) for answer in answers)
print(packed + int(os.environ["SOURCE_BYTES"]))
