"""`plain`: text from outside, as one line that is safe to show, to log and to send.

Servers, feeds, files and people write what they like into names, titles and errors.
Shown as it is, an escape sequence clears the operator's terminal, a line break forges
another line, and a bidi control turns the end of a line into its beginning.
"""

from __future__ import annotations

import re
import unicodedata

MAX_LENGTH = 500
"""Characters of a line, unless a caller asks for another number."""

# What `str.split` takes for white space, line and paragraph separators among it.
_SPACES = re.compile(r"\s+")
# Marks that join or vary the letters and pictures beside them, and hide nothing.
_JOINING = frozenset("\u200c\u200d\ufe0e\ufe0f")
# Controls, format characters (bidi and invisible ones among them), lone surrogates,
# separators, private use, and what is no character.
_UNSAFE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp", "Co", "Cn"})


def plain(text: object, limit: int = MAX_LENGTH) -> str:
    r"""Return text of anybody as one harmless line.

    White space of any kind becomes one space. What controls a terminal, the direction
    of writing or nothing that can be seen is shown as its escape, such as ``\x1b``.
    Markup of any library stays the characters it is made of: give the line to what
    takes text, not markup.

    Args:
        text: Anything; its `str`. Bytes are read as UTF-8.
        limit: Characters at most; longer text is cut, and ends with an ellipsis.

    Example:
        >>> plain("Rain?\n\x1b[31mBen: yes")
        'Rain? \\x1b[31mBen: yes'
    """
    if isinstance(text, bytes | bytearray):
        text = bytes(text[: 4 * limit]).decode(errors="replace")
    try:
        line = str(text)
    except ValueError:  # a number of thousands of digits
        line = f"<{type(text).__name__}>"
    # Cut first: the steps below are not free, and text has any length.
    cut = len(line) > 4 * limit
    line = _SPACES.sub(" ", line[: 4 * limit]).strip()
    if not line.isprintable():
        line = "".join([each if _safe(each) else _escape(each) for each in line])
    if cut or len(line) > limit:
        line = line[: max(0, limit - 1)] + "…"
    return line


def plain_lines(text: str) -> str:
    """Return text with the lines it has, each one harmless and not cut."""
    return "\n".join(
        line if line.isprintable() else "".join(map(_keep, line))
        for line in text.split("\n")
    )


def _safe(character: str) -> bool:
    return character in _JOINING or unicodedata.category(character) not in _UNSAFE


def _keep(character: str) -> str:
    return character if _safe(character) else _escape(character)


def _escape(character: str) -> str:
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
