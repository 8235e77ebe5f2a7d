"""Several rules, slots, shadows, blocks, refunds: the script under a test's clock."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oddswire.ratelimit import Concurrency, SlidingWindow, TokenBucket

START = 1_800_000_000_000_000
same_server = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])

LIMITS = {
    "w": SlidingWindow(6, 1.0),
    "v": SlidingWindow(20, 5.0),
    "b": TokenBucket(5.0, 4),
    "s": Concurrency(5, 2.0),
}


def used(scripts):
    """Return what is stored of each rule."""
    found = {}
    for name, limit in LIMITS.items():
        key = scripts.keys(name)[0]
        if limit.kind == b"s":
            found[name] = scripts.redis.zrange(key, 0, -1)
        else:
            found[name] = scripts.redis.get(key)
    return found


@pytest.mark.advanced
@pytest.mark.requirement("R1")
@same_server
@given(
    steps=st.lists(
        st.tuples(
            st.integers(0, 400_000),
            st.lists(st.sampled_from("wvbs"), min_size=1, max_size=4, unique=True),
            st.integers(1, 3),
        ),
        max_size=30,
    )
)
def test_all_rules_count_it_or_none_does(scripts, steps):
    """It is admitted if each rule alone would admit it; denied, nothing moves."""
    scripts.forget()
    at = START
    for number, (pause, names, cost) in enumerate(steps):
        at += pause
        rules = [(name, LIMITS[name], cost) for name in names]
        alone = [scripts.hit(at, rule, mode="look") for rule in rules]
        before = used(scripts)
        answer = scripts.hit(at, *rules, lease=f"lease{number}")
        assert answer.allowed == all(each.allowed for each in alone)
        after = used(scripts)
        for name in LIMITS:
            changed = before[name] != after[name]
            assert changed == (answer.allowed and name in names), name
        if not answer.allowed:
            # The longest of the waits is that of all of them together.
            assert answer.retry == max(each.retry for each in alone)
            assert scripts.hit(at + answer.retry, *rules, mode="look").allowed


@pytest.mark.basic
@pytest.mark.requirement("R1")
@same_server
@given(
    steps=st.lists(
        st.tuples(st.integers(0, 700_000), st.booleans(), st.integers(1, 3)),
        max_size=40,
    )
)
def test_slots_are_never_more_than_the_limit(scripts, steps):
    """Leases that were not given back end with their time, and never sooner."""
    scripts.forget()
    limit, at, held = Concurrency(4, 1.0), START, {}
    for number, (pause, back, cost) in enumerate(steps):
        at += pause
        held = {
            lease: (begun, cost)
            for lease, (begun, cost) in held.items()
            if begun + 1_000_000 > at
        }
        if back and held:
            lease, (begun, taken) = held.popitem()
            given_back = scripts.refund(at, begun, ("s", limit, taken), lease=lease)
            assert given_back == taken
        free = 4 - sum(taken for _, taken in held.values())
        answer = scripts.hit(at, ("s", limit, cost), lease=f"l{number}")
        assert answer.allowed == (cost <= free)
        if answer.allowed:
            held[f"l{number}"] = (at, cost)
            assert answer.remaining == free - cost


@pytest.mark.errors
def test_slots_come_back_when_the_clock_went_back(scripts):
    """A lease from the future ends one lease after it is seen, not an hour later."""
    limit = Concurrency(1, 1.0)
    assert scripts.hit(START, ("s", limit, 1), lease="a").allowed
    back = START - 3_600_000_000
    denied = scripts.hit(back, ("s", limit, 1), lease="b")
    assert not denied.allowed
    assert denied.retry == 1_000_000
    assert not scripts.hit(back + 999_999, ("s", limit, 1), lease="b").allowed
    assert scripts.hit(back + 1_000_000, ("s", limit, 1), lease="b").allowed


@pytest.mark.basic
@pytest.mark.requirement("R2")
@same_server
@given(
    steps=st.lists(st.tuples(st.integers(0, 150_000), st.booleans()), max_size=60),
    kind=st.sampled_from([SlidingWindow(6, 1.0), SlidingWindow(300, 1.0)]),
)
def test_a_refund_goes_where_it_was_counted(scripts, steps, kind):
    """With refunds, what was really used is never above the limit in any window."""
    scripts.forget()
    cost = kind.limit // 6
    at, kept, open_ = START, [], []
    for pause, back in steps:
        at += pause
        if back and open_:
            taken = open_.pop()
            given = scripts.refund(at, taken, ("w", kind, cost))
            # While any of its window is left it counts, so it is given back.
            assert given == (
                cost if at // kind.width - taken // kind.width <= 20 else 0
            )
            if given:
                kept.remove(taken)
        if scripts.hit(at, ("w", kind, cost)).allowed:
            open_.append(at)
            kept.append(at)
    for begin in kept:
        in_window = [each for each in kept if begin <= each <= begin + 1_000_000]
        assert len(in_window) * cost <= kind.limit


@pytest.mark.errors
@pytest.mark.requirement("R2")
def test_a_refund_of_what_has_passed_gives_nothing(scripts):
    """A refund after its window leaves what others use since then."""
    limit = SlidingWindow(2, 1.0)
    assert scripts.hit(START, ("w", limit, 2)).allowed
    later = START + 1_100_000
    assert scripts.hit(later, ("w", limit, 2)).allowed
    assert scripts.refund(later, START, ("w", limit, 2)) == 0
    assert not scripts.hit(later, ("w", limit, 1)).allowed


@pytest.mark.basic
@pytest.mark.requirement("R2")
def test_a_refund_fills_the_bucket_and_never_beyond(scripts):
    """Tokens come back, once the bucket is full they are gone."""
    limit = TokenBucket(10.0, 5)
    assert scripts.hit(START, ("b", limit, 4)).allowed
    assert scripts.refund(START, START, ("b", limit, 3)) == 3
    assert scripts.hit(START, ("b", limit, 1), mode="look").remaining == 4
    assert scripts.refund(START + 50_000, START, ("b", limit, 4)) == 1
    assert scripts.hit(START + 50_000, ("b", limit, 1), mode="look").remaining == 5


@pytest.mark.basic
@pytest.mark.requirement("R2")
def test_a_shadow_rule_watches_and_denies_nothing(scripts):
    """It says what it would have denied, and keeps within its own limit."""
    wide, tight = SlidingWindow(10, 1.0), SlidingWindow(2, 1.0)
    admitted = [
        scripts.hit(START + n, ("w", wide, 1), ("v", tight, 1, 0, True))
        for n in range(4)
    ]
    assert [each.allowed for each in admitted] == [True] * 4
    assert [each.rules[1][3] == 0 for each in admitted] == [True, True, False, False]
    assert scripts.hit(START + 9, ("v", tight, 1), mode="look").remaining == 0


@pytest.mark.basic
@pytest.mark.requirement("R5")
def test_what_is_held_back_stays_free_for_others(scripts):
    """A request that leaves two free is denied while one that leaves none is not."""
    for name, limit in (("w", SlidingWindow(5, 1.0)), ("b", TokenBucket(5, 5))):
        for _ in range(3):
            assert scripts.hit(START, (name, limit, 1, 2, False)).allowed
        low = scripts.hit(START, (name, limit, 1, 2, False))
        assert not low.allowed
        assert scripts.hit(
            START + low.retry, (name, limit, 1, 2, False), mode="look"
        ).allowed
        assert scripts.hit(START, (name, limit, 2)).allowed


@pytest.mark.errors
def test_a_penalty_is_never_shortened_and_survives_no_clock(scripts):
    """The longer one holds; an hour back on the clock makes it no longer."""
    block = scripts.keys("w")[1:2]
    limit = SlidingWindow(5, 1.0)
    assert scripts.run("penalize", START, block, [5_000_000]) == 5_000_000
    assert scripts.run("penalize", START + 1_000_000, block, [1_000]) == 4_000_000
    denied = scripts.hit(START + 2_000_000, ("w", limit, 1))
    assert (denied.allowed, denied.retry, denied.remaining) == (False, 3_000_000, 0)
    back = START - 3_600_000_000
    assert scripts.hit(back, ("w", limit, 1)).retry == 4_000_000
    assert scripts.hit(back + 4_000_000, ("w", limit, 1)).allowed


@pytest.mark.errors
def test_a_rule_that_changed_its_kind_begins_anew(scripts):
    """What another kind left under the name neither counts nor fails."""
    kinds = [SlidingWindow(3, 1.0), TokenBucket(1.0, 3), Concurrency(3, 1.0)]
    for before in kinds:
        for after in kinds:
            scripts.forget()
            assert scripts.hit(START, ("r", before, 3)).allowed
            if before.kind != after.kind:
                assert scripts.hit(START, ("r", after, 1), mode="look").remaining == 3
                assert scripts.hit(START, ("r", after, 3)).allowed
            assert not scripts.hit(START, ("r", after, 1), lease="other").allowed


@pytest.mark.errors
def test_what_is_reported_counts_whatever_the_limit(scripts):
    """What was used without Redis is counted above the limit, and wears off."""
    for name, limit in (("w", SlidingWindow(250, 1.0)), ("b", TokenBucket(250, 250))):
        assert scripts.hit(START, (name, limit, 240)).allowed
        scripts.hit(START + 1, (name, limit, 100), mode="book")
        denied = scripts.hit(START + 2, (name, limit, 1))
        assert (denied.allowed, denied.remaining) == (False, 0)
        assert scripts.hit(START + denied.retry + 2, (name, limit, 1)).allowed


@pytest.mark.errors
def test_what_is_reported_beyond_a_byte_wears_off_whole(scripts):
    """A count that its limit's bytes cannot hold ages, is given back and is gone."""
    limit = SlidingWindow(250, 1.0)
    width, first = limit.width, START // limit.width * limit.width
    scripts.hit(first, ("w", limit, 340), mode="book")
    scripts.hit(first + 2 * width, ("w", limit, 10), mode="book")
    at = first + 3 * width
    denied = scripts.hit(at, ("w", limit, 1))
    assert (denied.allowed, denied.retry) == (False, 18 * width)
    assert scripts.refund(at, first, ("w", limit, 1)) == 1
    assert scripts.refund(at, first, ("w", limit, 400)) == 339
    scripts.forget()
    scripts.hit(first, ("w", limit, 340), mode="book")
    scripts.hit(first + 2 * width, ("w", limit, 10), mode="book")
    over = first + 21 * width
    assert not scripts.hit(over - 1, ("w", limit, 1)).allowed
    assert scripts.hit(over, ("w", limit, 1), mode="look").remaining == 240
