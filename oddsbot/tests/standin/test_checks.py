from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oddsbot.standin.telegram import (
    ApiError,
    Faults,
    World,
    checked_keyboard,
    checked_text,
    rich,
)
from oddsbot.standin.telegram.updates import Updates

TEXTS = st.text(st.sampled_from("ab <>&/@\n\U0001f600é\u202e\"'") | st.characters())


def length(text):
    """Return UTF-16 units, another way than the stand-in's own."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def refusal(check, *arguments):
    """Return what was refused, None where it was taken."""
    try:
        check(*arguments)
    except ApiError as error:
        return error.description
    return None


@pytest.mark.errors
@pytest.mark.requirement("B10")
@pytest.mark.parametrize("limit", [4096, 1024])
@pytest.mark.parametrize("letter", ["a", "é", "\U0001f600"])
def test_lengths_count_utf16_units(letter, limit):
    """A text of exactly the limit passes, one unit more does not."""
    fits = letter * (limit // length(letter))
    assert refusal(checked_text, f"  {fits}\n", None, "", limit, "too long") is None
    assert "too long" in refusal(checked_text, f"{fits}a", None, "", limit, "too long")


@pytest.mark.errors
@pytest.mark.requirement("B10")
@given(text=TEXTS, offset=st.integers(-2, 40), size=st.integers(-2, 40))
def test_an_entity_is_kept_within_its_text_or_refused(text, offset, size):
    """What is taken covers whole characters of the text that is kept."""
    entity = {"type": "bold", "offset": offset, "length": size}
    try:
        kept, entities = checked_text(text, [entity], "", 4096, "too long")
    except ApiError:
        return
    assert 0 <= offset <= offset + size <= length(text)
    assert kept == text.strip()
    for each in entities:
        raw = kept.encode("utf-16-le")
        begin, end = each["offset"] * 2, (each["offset"] + each["length"]) * 2
        assert raw[begin:end].decode("utf-16-le")  # no half of a pair


@pytest.mark.errors
@pytest.mark.requirement("B10")
@given(data=st.text(max_size=70), label=st.text(max_size=5))
def test_callback_data_has_at_most_64_bytes_of_utf8(data, label):
    """Bytes count, not characters; a button has a text that is seen."""
    keyboard = {"inline_keyboard": [[{"text": label, "callback_data": data}]]}
    size = len(data.encode("utf-8", "surrogatepass"))
    good = 1 <= size <= 64 and label.strip()
    found = refusal(checked_keyboard, keyboard)
    surrogates = any("\ud800" <= c <= "\udfff" for c in data + label)
    assert (found is None) == bool(good and not surrogates)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["inline_keyboard", "keyboard", "text", "url", "callback_data", "style"]
            ),
            inner,
            max_size=3,
        )
    ),
)


@pytest.mark.errors
@pytest.mark.requirement("B10")
@given(markup=JSON, url=st.text(max_size=30))
def test_any_markup_is_taken_or_refused(markup, url):
    """Nothing that JSON can say breaks the stand-in."""
    refusal(checked_keyboard, markup)
    button = {"text": "x", "url": f"https://{url}"}
    refusal(checked_keyboard, {"inline_keyboard": [[button]]})
    refusal(checked_text, "abc", markup, "", 4096, "long")


@pytest.mark.errors
@pytest.mark.requirement("B10", "X4")
@given(
    text=st.text(max_size=30),
    spans=st.lists(
        st.tuples(
            st.sampled_from(["bold", "code", "text_link", "bot_command", "url"]),
            st.integers(0, 30),
            st.integers(1, 30),
        ),
        max_size=4,
    ),
)
def test_the_page_shows_a_text_and_none_of_its_tags(text, spans):
    """Every text is escaped whole, however entities lie over each other."""
    from html.parser import HTMLParser

    entities = [
        {"type": kind, "offset": at, "length": size, "url": f"https://e.x/{text}"}
        for kind, at, size in spans
    ]
    try:
        kept, found = checked_text(text, entities, "", 4096, "long")
    except ApiError:
        return
    seen, tags, opened = [], set(), []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attributes):
            opened.append(tag)
            tags.add(tag)

        def handle_endtag(self, tag):
            assert opened.pop() == tag

        def handle_data(self, data):
            seen.append(data)

    reader = Reader(convert_charrefs=True)
    reader.feed(rich(kept, found))
    reader.close()
    assert "".join(seen) == kept
    assert tags <= {"strong", "code", "a", "button", "span"}
    assert opened == []


@pytest.mark.basic
@pytest.mark.requirement("B10")
async def test_the_same_acts_make_the_same_world(clock):
    """Ids and times follow from what is done and the clock, and from nothing else."""

    def play():
        world = World(Updates(Faults(), clock), clock, bot_id=42)
        world.say(1001, "/start https://polymarket.com/x @stand_in_bot")
        world.say(1002, "fed")
        world.block(1001)
        world.set_status(world.group, 1001, "left")
        return {number: room.messages for number, room in world.rooms.items()}

    assert play() == play()
