"""A card as text, for people who read a snapshot of it."""

from __future__ import annotations

from oddsbot.delivery import MAX_CAPTION, MAX_TEXT, Press

MARKS = {"bold": "**", "italic": "_", "code": "`", "pre": "```", "date_time": "~"}


def drawn(card) -> str:
    """Return a card's text with its entities marked, and its buttons in brackets."""
    raw = card.text.encode("utf-16-le")
    marks: dict[int, str] = {}
    for entity in card.entities:
        mark = MARKS[entity.type]
        end = entity.offset + entity.length
        assert 0 <= entity.offset < end <= len(raw) // 2
        marks[entity.offset] = marks.get(entity.offset, "") + mark
        marks[end] = mark + marks.get(end, "")
    out, last = ["[photo]\n"] if card.photo else [], 0
    if card.file is not None:
        out.append(f"[{card.file.name}]\n")
    for at in sorted(marks):
        out += [raw[last * 2 : at * 2].decode("utf-16-le"), marks[at]]
        last = at
    out.append(raw[last * 2 :].decode("utf-16-le"))
    rows = ["".join(map(button, row)) for row in card.buttons]
    return "".join(out) + "\n" + "".join(f"\n{row}" for row in rows) + "\n"


def button(each) -> str:
    """Return a button: what it says, and what it does."""
    if each.data is not None:
        press = Press.of(each.data)
        does = f"{press.action.name} {press.subject:x} {press.argument}"
    elif each.share is not None:
        does = f"share {each.share.start}: {each.share.text}"
    else:
        does = each.url
    style = {"success": "+", "danger": "-"}.get(each.style, "")
    return f"⟦{style}{each.text} → {does}⟧"


def fits(card) -> bool:
    """Whether Telegram takes a card: lengths in UTF-16 units, rows and bytes."""
    most = MAX_TEXT if card.photo is card.file is None else MAX_CAPTION
    return (
        0 < len(card.text.encode("utf-16-le")) // 2 <= most
        and len(card.buttons) <= 20
        and all(0 < len(row) <= 8 for row in card.buttons)
        and all(each.text.strip() for row in card.buttons for each in row)
    )
