"""Compresses lines, one by one: `codec.py` answers each in base64, `codec.py -d` gives them back."""

import base64
import sys
import zlib


WORDS = (
    b'ERROR worker retry queue=mail attempt= error="connection reset by peer"|2026-03-01T WARN database slow query '
    b'table=orders rows= duration_ms=|2026-03-01T DEBUG cache lookup key=session: hit=false hit=true|2026-03-01T '
    b'agent="Prometheus/2.53"agent="python-requests/2.32"agent="Mozilla/5.0 (X11; Linux x86_64)"agent="curl/8.5.0"'
    b"method=POST path=/api/v1/orders/export status=201 path=/login status=404 path=/static/app.js status=304 "
    b"path=/metrics path=/health path=/api/v1/users status=200 duration_ms= bytes= client=10.|2026-03-01T"
    b":Z web-0 INFO request method=GET path=/api/v1/orders status=200 duration_ms="
)


def compress(line):
    packer = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_DEFAULT_STRATEGY, WORDS)
    return packer.compress(line) + packer.flush()


def decompress(packed):
    return zlib.decompressobj(-15, WORDS).decompress(packed)


def main():
    for line in sys.stdin.buffer:
        line = line.rstrip(b"\n")
        if sys.argv[1:] == ["-d"]:
            print(decompress(base64.b64decode(line)).decode())
        else:
            print(base64.b64encode(compress(line)).decode())


main()
