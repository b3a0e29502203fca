"""Compresses lines, one by one: `codec.py` answers each in base64, `codec.py -d` gives them back."""

import base64
import sys
import zlib


def compress(line):
    return zlib.compress(line, 9)


def decompress(packed):
    return zlib.decompress(packed)


def main():
    for line in sys.stdin.buffer:
        line = line.rstrip(b"\n")
        if sys.argv[1:] == ["-d"]:
            print(decompress(base64.b64decode(line)).decode())
        else:
            print(base64.b64encode(compress(line)).decode())


main()
