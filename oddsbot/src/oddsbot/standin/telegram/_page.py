"""The chat page: HTML from the world, every text escaped."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from html import escape
from string import Template
from typing import TYPE_CHECKING
from zlib import crc32

from ._checks import units, usable

if TYPE_CHECKING:
    from .errors import Json
    from .panel import Panel
    from .world import Person, Room, World

SHOWN = 60
_TAGS = {"bold": "strong", "italic": "em", "code": "code", "pre": "pre"}


def page(
    skeleton: str,
    world: World,
    person: Person,
    room: Room,
    secret: str,
    panel: Panel,
) -> str:
    """Return the whole page of a person in one of her chats.

    Args:
        skeleton: ``page.html``.
        world: The chats.
        person: Who looks.
        room: Where.
        secret: What each form carries.
        panel: What there is beside the chats.
    """
    title = room.title if room.type != "private" else world.me["first_name"]
    hidden = "".join(
        f'<input type="hidden" name="{name}" value="{escape(str(value))}">'
        for name, value in (("secret", secret), ("as", person.id), ("chat", room.id))
    )
    nothing = dict.fromkeys(("says", "line", "tour", "aside"), "")
    return Template(skeleton).substitute(
        _beside(panel, hidden) if panel.acts else nothing,
        layout="with-panel" if panel.acts else "",
        title=escape(title),
        name=escape(person.first_name),
        subtitle=_subtitle(room, person),
        people=_people(world, person, room),
        hidden=hidden,
        place=f"as={person.id}&amp;chat={room.id}",
        messages="".join(item(person, room, each)[0] for each in newest(room)),
    )


def newest(room: Room) -> list[Json]:
    """Return the messages that a page shows."""
    return list(room.messages.values())[-SHOWN:]


def _subtitle(room: Room, person: Person) -> str:
    if room.type != "private":
        return f"{len(room.members)} members · you are {escape(person.first_name)}"
    if person.blocked:
        return "blocked; a message unblocks it"
    return "bot"


def _people(world: World, person: Person, room: Room) -> str:
    rows = []
    for each in world.people.values():
        links = []
        for chat in world.rooms.values():
            if chat.id != each.id and not (chat.type == "group" and chat.has(each.id)):
                continue
            name = world.me["first_name"] if chat.type == "private" else chat.title
            here = each is person and chat is room
            current = ' aria-current="page"' if here else ""
            href = f"/?as={each.id}&amp;chat={chat.id}"
            links.append(f'<a href="{href}"{current}>{escape(name)}</a>')
        who = f'<span class="who">{escape(each.first_name)}</span>'
        rows.append(f"<li>{who}{''.join(links)}</li>")
    return "".join(rows)


def _beside(panel: Panel, hidden: str) -> dict[str, str]:
    """Return what a panel adds to the page."""
    shown = parts(panel)
    form = f'method="post" action="/act">{hidden}'
    says = "".join(
        f'<button name="do" value="say:{escape(text)}">{escape(label)}</button>'
        for label, text in panel.says.items()
    )
    figures = "".join(
        f"<div><dt>{escape(label)}</dt>"
        f'<dd id="figure-{escape(name)}">{shown[f"figure-{name}"]}</dd></div>'
        for name, label in panel.figures.items()
    )
    acts = "".join(
        f'<button class="danger" name="do" value="act:{escape(name)}">'
        f"{escape(each.label)}</button>"
        for name, each in panel.acts.items()
    )
    return {
        "says": f'<form id="panel" {form}{says}</form>',
        # A number that changes each second is no news for a screen reader.
        "line": (
            f'<p id="line">{shown["line"]}</p>'
            '<a class="jump" href="#live">Live layer and what to break ↓</a>'
        ),
        "tour": (
            f'<form id="guide" {form}<div id="tour" role="status">{shown["tour"]}'
            "</div></form>"
        ),
        "aside": (
            '<aside id="live" aria-label="Live layer"><a class="jump" href="#say">'
            f"Back to the chat ↑</a><h2>Live layer</h2><dl>{figures}</dl>"
            f'<h2>Break something</h2><form id="acts" {form}{acts}</form>'
            f'<h2>Last events</h2><ol id="events">{shown["events"]}</ol></aside>'
        ),
    }


def _step(panel: Panel) -> str:
    steps, number = panel.tour, panel.step
    if number >= len(steps):
        again = '<button name="do" value="tour:again">Take the tour again</button>'
        return again if steps else ""
    step = steps[number]
    does = ""
    if step.button:
        does = (
            f'<button class="success" name="do" value="{escape(step.does)}">'
            f"{escape(step.button)}</button>"
        )
    return (
        f"<p><strong>{number + 1} of {len(steps)} · {escape(step.title)}</strong> "
        f'{escape(step.text)}</p><span class="row">{does}'
        '<button name="do" value="tour:skip">Skip the tour</button></span>'
    )


def parts(panel: Panel) -> dict[str, str]:
    """Return the HTML of each part of the page that a panel changes, by its id."""
    events = (f'<li dir="auto">{escape(each)}</li>' for each in panel.events)
    figures = {
        f"figure-{name}": escape(panel.values.get(name, "–")) for name in panel.figures
    }
    return {
        "line": escape(panel.line),
        "tour": _step(panel),
        "events": "".join(events),
        **figures,
    }


def item(person: Person, room: Room, message: Json) -> tuple[str, str]:
    """Return one message as an item of the log, and what says that it changed."""
    number = message["message_id"]
    own = message["from"]["id"] == person.id
    name = "You" if own else message["from"]["first_name"]
    moment = datetime.fromtimestamp(message["date"], UTC)
    edited = " · edited" if "edit_date" in message else ""
    silent = " · silent" if number in room.silent else ""
    parts = [
        f'<article aria-labelledby="n{number}"><h2 id="n{number}" dir="auto">',
        f'{escape(name)}<span class="hidden"> wrote</span></h2>',
    ]
    if "photo" in message:
        size = message["photo"][0]
        alt = (message.get("caption") or "").partition("\n")[0] or "Photo"
        parts.append(
            f'<img src="/photo/{escape(size["file_id"])}" width="{size["width"]}" '
            f'height="{size["height"]}" alt="Photo: {escape(alt)}">'
        )
    if "document" in message:
        kept = message["document"]
        parts.append(
            f'<p><a href="/photo/{escape(kept["file_id"])}" '
            f'download="{escape(kept["file_name"])}">{escape(kept["file_name"])}</a> '
            f"{kept['file_size']:,} bytes</p>"
        )
    text = message.get("text") or message.get("caption")
    if text:
        entities = message.get("entities") or message.get("caption_entities") or []
        parts.append(f'<div class="text" dir="auto">{rich(text, entities)}</div>')
    if "location" in message:
        place = message["location"]
        parts.append(f"<p>{place['latitude']:.4f}, {place['longitude']:.4f}</p>")
    parts.append(
        f'<time datetime="{moment:%Y-%m-%dT%H:%M:%SZ}">{moment:%H:%M}{edited}{silent}'
        "</time></article>"
    )
    keyboard = message.get("reply_markup", {}).get("inline_keyboard")
    if keyboard:
        parts.append('<div class="keys" role="group" aria-label="Buttons">')
        for row, buttons in enumerate(keyboard):
            keys = (
                _button(f"press:{number}:{row}:{column}", each)
                for column, each in enumerate(buttons)
            )
            parts.append(f'<div class="row">{"".join(keys)}</div>')
        parts.append("</div>")
    html = "".join(parts)
    version = f"{crc32(html.encode('utf-8', 'replace')):x}"
    head = (
        f'<div id="m{number}" class="{"own" if own else "other"}" data-v="{version}">'
    )
    return f"{head}{html}</div>", version


def _button(place: str, button: Json) -> str:
    text = escape(button["text"])
    style = f' class="{button["style"]}"' if "style" in button else ""
    if "url" in button:
        return (
            f'<a{style} href="{escape(button["url"])}" target="_blank" '
            f'rel="noopener noreferrer">{text} <span aria-hidden="true">↗</span></a>'
        )
    return f'<button{style} name="do" value="{place}">{text}</button>'


def rich(text: str, entities: list[Json]) -> str:
    """Return a text as HTML, with its entities; they may stand within each other."""
    raw = text.encode("utf-16-le", "surrogatepass")
    borders: dict[int, tuple[list[str], list[str]]] = {}
    ends: list[int] = []
    for entity in entities:
        begin, end = entity["offset"], entity["offset"] + entity["length"]
        while ends and ends[-1] <= begin:
            ends.pop()
        if ends and end > ends[-1]:
            continue  # it leaves the one that it began in: HTML has no way to say that
        piece = raw[begin * 2 : end * 2].decode("utf-16-le", "replace")
        opening, closing = _tags(entity, piece)
        ends.append(end)
        borders.setdefault(begin, ([], []))[0].append(opening)
        borders.setdefault(end, ([], []))[1].insert(0, closing)
    out, last = [], 0
    for at in sorted(borders):
        out.append(escape(raw[last * 2 : at * 2].decode("utf-16-le", "replace")))
        opened, closed = borders[at]
        out += [*closed, *opened]
        last = at
    out.append(escape(raw[last * 2 : units(text) * 2].decode("utf-16-le", "replace")))
    return "".join(out)


def _tags(entity: Json, piece: str) -> tuple[str, str]:
    kind = entity["type"]
    if kind in _TAGS:
        return f"<{_TAGS[kind]}>", f"</{_TAGS[kind]}>"
    url = entity.get("url") if kind == "text_link" else piece
    if kind in {"text_link", "url"} and usable(url) and str(url).startswith("http"):
        href = escape(str(url))
        opening = f'<a href="{href}" target="_blank" rel="noopener noreferrer">'
        return opening, "</a>"
    if kind == "bot_command":
        return (
            f'<button class="command" name="do" value="say:{escape(piece)}">',
            "</button>",
        )
    return '<span class="entity">', "</span>"


def event(name: str, content: Json) -> bytes:
    """Return a server-sent event."""
    return f"event: {name}\ndata: {json.dumps(content)}\n\n".encode()
