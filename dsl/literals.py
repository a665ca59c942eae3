"""Literals of the language as text: numbers and strings, read and written."""

from __future__ import annotations

import re
import unicodedata
from decimal import Decimal

MAX_INTEGER = 2**63 - 1
"""Larger whole numbers have no exact place in the generated code; they are written as floats (`1e20`)."""

_ESCAPE = re.compile(r"\\(?:u\{([0-9a-fA-F]{1,6})\}|(.))", re.DOTALL)
_SIMPLE = {"n": "\n", "t": "\t", "r": "\r", '"': '"', "\\": "\\"}
_WRITTEN = {value: "\\" + key for key, value in _SIMPLE.items()}


def read_number(text: str) -> int | float:
    """`1` is an int; `1.0`, `.5` and `1e-3` are floats. Raises OverflowError where no int64 or finite float64 holds it."""
    if text.isdigit():
        digits = text.lstrip("0") or "0"
        if len(digits) > 19 or int(digits) > MAX_INTEGER:
            raise OverflowError(text)
        return int(digits)
    value = float(text)
    if value == float("inf"):
        raise OverflowError(text)
    return value


def write_number(value: int | float) -> str:
    """The shortest text that `read_number` takes back to the same value; scientific below 1e-2 and from 1e16 on."""
    if isinstance(value, int):
        return str(value)
    if value == 0 or 1e-2 <= value < 1e16:
        return repr(value)
    _, digits, exponent = Decimal(repr(value)).normalize().as_tuple()
    fraction = "".join(map(str, digits[1:]))
    return f"{digits[0]}{'.' + fraction if fraction else ''}e{int(exponent) + len(digits) - 1}"


def bad_escape(text: str) -> int | None:
    """Offset of the first unknown escape in a quoted text, or None."""
    for match in _ESCAPE.finditer(text):
        known = int(match[1], 16) <= 0x10FFFF if match[1] is not None else match[2] in _SIMPLE
        if not known:
            return match.start()
    return None


def read_text(quoted: str) -> str:
    r"""The value of `"…"`. Escapes: `\"`, `\\`, `\n`, `\t`, `\r` and `\u{1F600}`."""
    return _ESCAPE.sub(lambda match: chr(int(match[1], 16)) if match[1] is not None else _SIMPLE[match[2]], quoted[1:-1])


def write_text(value: str) -> str:
    """The quoted form of a text, always on one line. What NFC would change, and what does not print, is escaped."""
    plain = unicodedata.is_normalized("NFC", value)

    def write(character: str) -> str:
        if character in _WRITTEN:
            return _WRITTEN[character]
        if character.isprintable() and (plain or character.isascii()):
            return character
        return f"\\u{{{ord(character):x}}}"

    return '"' + "".join(map(write, value)) + '"'
