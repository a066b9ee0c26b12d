"""Writes cpp/src/text/unicode_tables.h from Python's unicodedata (or unicodedata2, if installed).

The reference tokenizer classifies characters by Unicode 16.0, so the tables are made with that version:
``pip install unicodedata2==16.0.0`` unless Python itself carries it (3.14), then run this file.
"""

from __future__ import annotations

import sys
from pathlib import Path

try:
    import unicodedata2 as unicodedata
except ImportError:
    import unicodedata  # type: ignore[no-redef]

VERSION = "16.0.0"
OUTPUT = Path(__file__).parent.parent / "cpp" / "src" / "text" / "unicode_tables.h"
WIDTH = 108
# The property White_Space; it has not changed since Unicode 6.3.
SPACES = [
    *range(9, 14),
    0x20,
    0x85,
    0xA0,
    0x1680,
    *range(0x2000, 0x200B),
    0x2028,
    0x2029,
    0x202F,
    0x205F,
    0x3000,
]
OTHER, LETTER, NUMBER, SPACE = range(4)
HANGUL = range(0xAC00, 0xAC00 + 11172)


def char_class(code: int) -> int:
    """The class of a code point for the pre-tokenizer."""
    if code in SPACES:
        return SPACE
    return {"L": LETTER, "N": NUMBER}.get(unicodedata.category(chr(code))[0], OTHER)


def steps(values: list[int], bits: int) -> list[str]:
    """Encodes a step function over the code points: (first code point << bits | value) for each step."""
    out = []
    for code, value in enumerate(values):
        if code == 0 or value != values[code - 1]:
            out.append(f"0x{code << bits | value:x}")
    return out


def table(kind: str, name: str, comment: str, items: list[str]) -> str:
    """An array definition in lines of at most WIDTH columns."""
    lines, line = [], " "
    for item in items:
        if len(line) + len(item) + 2 > WIDTH:
            lines.append(line)
            line = " "
        line += f" {item},"
    lines.append(line)
    return f"// {comment}\ninline constexpr {kind} {name}[] = {{\n" + "\n".join(lines) + "\n};\n"


def main() -> None:
    """Writes the header."""
    if unicodedata.unidata_version != VERSION:
        sys.exit(f"this Python has Unicode {unicodedata.unidata_version}, the tables are of {VERSION}")
    codes = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    pairs: dict[int, tuple[int, int]] = {}
    for code in codes:
        text = unicodedata.decomposition(chr(code))
        if text and not text.startswith("<"):
            parts = [int(p, 16) for p in text.split()]
            pairs[code] = (parts[0], parts[1] if len(parts) > 1 else 0)
    ordered = sorted(pairs)
    # A pair composes unless its character is excluded, and then NFC would not give it back.
    composing = [
        i
        for i, code in enumerate(ordered)
        if pairs[code][1] and unicodedata.normalize("NFC", chr(code)) == chr(code)
    ]
    composing.sort(key=lambda i: pairs[ordered[i]])
    # Hangul vowels and final consonants compose arithmetically.
    seconds = (
        {pairs[ordered[i]][1] for i in composing} | set(range(0x1161, 0x1176)) | set(range(0x11A8, 0x11C3))
    )

    def unsettled(code: int) -> int:
        if 0xD800 <= code < 0xE000 or code in HANGUL:
            return 0
        char = chr(code)
        return int(
            code in seconds or unicodedata.combining(char) != 0 or unicodedata.normalize("NFC", char) != char
        )

    everything = range(0x110000)
    head = f"""// text/unicode_tables.h - Unicode {VERSION}, made by tools/make_unicode_tables.py.
#pragma once

#include <cstdint>

// clang-format off
namespace omni::unicode_tables {{

"""
    parts = [
        table(
            "uint32_t",
            "kClassSteps",
            "Code point << 2 | class (0 other, 1 letter, 2 number, 3 space), where the class changes.",
            steps([char_class(c) for c in everything], 2),
        ),
        table(
            "uint32_t",
            "kUnsettledSteps",
            "Code point << 1 | whether text with this character may not be in NFC.",
            steps([unsettled(c) for c in everything], 1),
        ),
        table(
            "uint32_t",
            "kCombiningSteps",
            "Code point << 8 | canonical combining class.",
            steps([unicodedata.combining(chr(c)) for c in everything], 8),
        ),
        "struct Decomposition {\n  uint32_t code, first, second;  // second: 0 if there is one part\n};\n",
        table(
            "Decomposition",
            "kDecompositions",
            "Canonical decompositions, one step, without Hangul.",
            [f"{{0x{c:x},0x{pairs[c][0]:x},0x{pairs[c][1]:x}}}" for c in ordered],
        ),
        table(
            "uint16_t",
            "kCompositions",
            "Those of kDecompositions that compose, ordered by (first, second).",
            [str(i) for i in composing],
        ),
    ]
    OUTPUT.write_text(head + "\n".join(parts) + "\n}  // namespace omni::unicode_tables\n", encoding="utf-8")


if __name__ == "__main__":
    main()
