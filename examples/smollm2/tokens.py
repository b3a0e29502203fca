"""A text as the tokens of a Hugging Face folder's tokenizer.json: tokens.py FOLDER TEXT OUT [CHARACTERS]

Needs the package tokenizers. The file's format is that of l402t's token files.
"""

import struct
import sys

from tokenizers import Tokenizer


def main(folder, text, out, characters=400_000):
    with open(text, encoding="utf-8") as file:
        tokens = Tokenizer.from_file(f"{folder}/tokenizer.json").encode(file.read()[: int(characters)]).ids
    width, code = (2, "H") if max(tokens) < 1 << 16 else (4, "I")
    with open(out, "wb") as file:
        file.write(b"\xffL402TOK" + bytes([1, width]) + struct.pack("<Q", len(tokens)))
        file.write(struct.pack(f"<{len(tokens)}{code}", *tokens))
    print(f"{out}: {len(tokens)} tokens")


if __name__ == "__main__":
    if len(sys.argv) not in (4, 5):
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
