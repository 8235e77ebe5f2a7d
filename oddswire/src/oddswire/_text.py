"""`text`: what a server answered as a `str`, whether the connection decodes or not."""

from __future__ import annotations


def text(value: object, errors: str = "replace") -> str:
    """Return a reply, or a part of one, as text.

    Args:
        value: Bytes are decoded as UTF-8; of anything else, its `str`.
        errors: ``"replace"``: bytes that are no UTF-8 become U+FFFD, so that no reply
            of another program raises. ``"strict"``: they raise `UnicodeDecodeError`.
    """
    return value.decode(errors=errors) if isinstance(value, bytes) else str(value)
