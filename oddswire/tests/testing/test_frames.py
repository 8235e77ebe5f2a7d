"""Where replies end, however the stream is cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oddswire.testing._frames import Frames

_SCALARS = st.one_of(
    st.just(b"+OK\r\n"),
    st.integers(-5, 5).map(lambda n: b":%d\r\n" % n),
    st.binary(max_size=30).map(lambda b: b"$%d\r\n%s\r\n" % (len(b), b)),
    st.sampled_from([b"$-1\r\n", b"*-1\r\n", b"_\r\n", b"#t\r\n", b",1.5\r\n"]),
    st.binary(max_size=9).map(lambda b: b"=%d\r\ntxt:%s\r\n" % (len(b) + 4, b)),
)


def _nest(inner):
    items = st.lists(inner, max_size=4)
    pairs = st.lists(st.tuples(inner, inner).map(b"".join), max_size=3)
    return st.one_of(
        items.map(lambda i: b"*%d\r\n%s" % (len(i), b"".join(i))),
        items.map(lambda i: b"~%d\r\n%s" % (len(i), b"".join(i))),
        pairs.map(lambda i: b"%%%d\r\n%s" % (len(i), b"".join(i))),
        st.tuples(pairs, inner).map(
            lambda i: b"|%d\r\n%s%s" % (len(i[0]), b"".join(i[0]), i[1])
        ),
    )


_REPLIES = st.lists(st.recursive(_SCALARS, _nest, max_leaves=8), min_size=1, max_size=5)


@pytest.mark.advanced
@given(replies=_REPLIES, cut=st.integers(0, 10_000), size=st.integers(1, 40))
def test_what_is_injected_stands_between_two_replies(replies, cut, size):
    """Wherever the stream is cut, an injected message splits no reply."""
    stream = b"".join(replies)
    cut %= len(stream) + 1
    frames, out = Frames(), b""
    for start in range(0, cut, size):
        out += frames.feed(stream[start : min(start + size, cut)])
    out += frames.inject(b">1\r\n+push\r\n")
    for start in range(cut, len(stream), size):
        out += frames.feed(stream[start : start + size])

    ends = {sum(map(len, replies[:n])) for n in range(len(replies) + 1)}
    at = out.index(b">1\r\n+push\r\n") if b">1\r\n+push\r\n" in out else None
    assert at in ends
    assert out.replace(b">1\r\n+push\r\n", b"", 1) == stream
    assert frames.between
