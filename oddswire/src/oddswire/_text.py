"""`text`: a server's answer as a `str`. `closest`: what a misspelt name may mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def text(value: object, errors: str = "replace") -> str:
    """Return a reply, or a part of one, as text.

    Args:
        value: Bytes are decoded as UTF-8; of anything else, its `str`.
        errors: ``"replace"``: bytes that are no UTF-8 become U+FFFD, so that no reply
            of another program raises. ``"strict"``: they raise `UnicodeDecodeError`.
    """
    return value.decode(errors=errors) if isinstance(value, bytes) else str(value)


def closest(name: str, known: Iterable[str]) -> list[str]:
    """Return the known name that is most like a wrong one; none, if none is like it."""
    # Here, for a wrong name is rare, and the module costs 2 ms of every start.
    from difflib import get_close_matches  # noqa: PLC0415

    return get_close_matches(name, list(known), n=1, cutoff=0.7)
