from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from decimal import Decimal
from types import SimpleNamespace
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from telegram import Update
from telegram.error import RetryAfter
from telegram.ext import (
    Application,
    CommandHandler,
    ConversationHandler,
    MessageHandler,
    TypeHandler,
    filters,
)

from oddswire import Client
from oddswire.adapters import _values
from oddswire.adapters.ptb import Persistence, RateLimiter, UpdateProcessor
from oddswire.errors import CodecError, OddswireError, RateLimited, SettingsError
from oddswire.keys import PTB_DATA, KeySpace
from oddswire.ratelimit import Priority, Rule, SlidingWindow
from support.hooks import conversations_key, persistence_key, seen_before, unsaved

# PTB warns of itself when it makes a RetryAfter.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*retry_after.*:telegram.warnings.PTBDeprecationWarning"
)


async def tap(update, context):
    """Count a tap of the user, of the chat and of the bot."""
    both = (context.user_data, context.chat_data)
    taps = [each.get("taps", 0) for each in both]
    await asyncio.sleep(0.002)  # as if it asked somebody
    for each, count in zip(both, taps, strict=True):
        each["taps"] = count + 1
    if update.message.text == "break":
        context.user_data["broken"] = object()


@asynccontextmanager
async def running(client, prefix, telegram, *handlers, **options):
    """Run an application on the local Bot API."""
    processor = UpdateProcessor(client, prefix=prefix, **options)
    application = (
        Application.builder()
        .token("42:TEST")
        .base_url(f"{telegram.url}/bot")
        .updater(None)
        .job_queue(None)
        .persistence(Persistence(client, prefix=prefix))
        .concurrent_updates(processor)
        .build()
    )
    processor.application = application
    application.add_handlers(handlers or [TypeHandler(Update, tap)])
    async with application:
        await application.start()
        try:
            yield application
        finally:
            await application.stop()


async def feed(application, *messages):
    """Have an application handle updates."""
    for message in messages:
        update = Update.de_json(message, application.bot)
        await application.update_queue.put(update)
    await application.update_queue.join()


@pytest.fixture
def persistence_of(client, prefix):
    """Make a persistence as a process of its own would have it."""

    class Bot:
        id = 42

    def make(client=client, **options):
        persistence = Persistence(client, prefix=prefix, **options)
        persistence.bot = Bot()
        return persistence

    return make


# --- a real application


@pytest.mark.integration
@pytest.mark.requirement("S9")
async def test_taps_of_one_user_over_two_applications_are_all_counted(
    server, client, prefix, telegram, message_of, persistence_of
):
    """Two applications, one user and one group, fifty taps at once: fifty counted."""
    async with (
        Client.from_url(server.url) as other,
        running(client, prefix, telegram) as one,
        running(other, prefix, telegram) as two,
    ):
        await asyncio.gather(
            feed(one, *(message_of(number, user=1) for number in range(15))),
            feed(two, *(message_of(number, user=1) for number in range(15, 30))),
            feed(one, *(message_of(30 + n, user=10 + n, chat=-5) for n in range(10))),
            feed(two, *(message_of(40 + n, user=10 + n, chat=-5) for n in range(10))),
        )
    stored = persistence_of(preload=True)
    users = {1: 30} | {10 + number: 2 for number in range(10)}
    found = await stored.get_user_data()
    assert {user: data["taps"] for user, data in found.items()} == users
    assert (await stored.get_chat_data())[-5] == {"taps": 20}


@pytest.mark.integration
@pytest.mark.requirement("S9")
async def test_two_processes_count_the_taps_of_one_user(
    server, client, prefix, telegram, message_of, worker, persistence_of
):
    """A real second process, killed at the end: what it did is there."""
    other = await worker("ptb", server.url, prefix, telegram.url, 30)
    assert await other.stdout.readline() == b"ready\n"
    async with running(client, prefix, telegram) as application:
        async with asyncio.TaskGroup() as tasks:
            for number in range(30):
                tasks.create_task(feed(application, message_of(number, user=1)))
            assert await other.stdout.readline() == b"done\n"
        other.kill()  # no stop, no flush
        data = {}
        await persistence_of().refresh_user_data(1, data)
    assert data == {"taps": 60}


@pytest.mark.integration
@pytest.mark.requirement("S9")
async def test_a_conversation_goes_on_after_a_restart(
    client, prefix, telegram, message_of
):
    """Its state and what was collected are those from before."""
    said = []

    async def ask(update, context):
        context.user_data["begun"] = Decimal("0.5")
        return 1

    async def answer(update, context):
        said.append((update.message.text, context.user_data["begun"]))
        return ConversationHandler.END

    def handler():
        return ConversationHandler(
            [CommandHandler("start", ask)],
            {1: [MessageHandler(filters.TEXT, answer)]},
            [],
            name="order",
            persistent=True,
        )

    start = message_of(1, text="/start")
    start["message"]["entities"] = [{"type": "bot_command", "offset": 0, "length": 6}]
    async with running(client, prefix, telegram, handler()) as application:
        await feed(application, start)
    async with running(client, prefix, telegram, handler()) as application:
        await feed(application, message_of(2, text="yes"))
    async with running(client, prefix, telegram, handler()) as application:
        await feed(application, message_of(3, text="again"))
    assert said == [("yes", Decimal("0.5"))]


@pytest.mark.errors
async def test_what_cannot_be_stored_is_told_and_kept_here(
    client, prefix, telegram, message_of, persistence_of
):
    """The error handler hears of it; other users' data is written."""
    errors = []

    async def note(update, context):
        errors.append(context.error)

    async with running(client, prefix, telegram) as application:
        application.add_error_handler(note)
        await feed(
            application, message_of(1, user=1, text="break"), message_of(2, user=2)
        )
        assert [type(error) for error in errors] == [CodecError]
        stored = persistence_of(preload=True)
        assert await stored.get_user_data() == {1: {"taps": 1}, 2: {"taps": 1}}
        del application.user_data[1]["broken"]
        await feed(application, message_of(3, user=1))
        assert (await stored.get_user_data())[1] == {"taps": 2}


@pytest.mark.errors
@pytest.mark.requirement("S9")
async def test_redis_killed_the_update_fails_and_later_ones_work(
    own, prefix, telegram, message_of
):
    """The error handler gets a typed error; after a restart the bot goes on."""
    errors = []

    async def note(update, context):
        errors.append(context.error)

    async with (
        Client.from_url(own.url, command_timeout=1.0) as client,
        running(client, prefix, telegram) as application,
    ):
        application.add_error_handler(note)
        await feed(application, message_of(1, user=1))
        own.kill()
        await feed(application, message_of(2, user=1))
        assert errors
        assert all(isinstance(error, OddswireError) for error in errors)
        await own.restart()
        key = KeySpace(prefix).key(PTB_DATA, 42, "user", 1)
        async with asyncio.timeout(60):
            written = 0
            while not written:
                await feed(application, message_of(3, user=1))
                with suppress(OddswireError):  # it is on its way back
                    written = await client.exists(key)


@pytest.mark.errors
async def test_a_processor_without_its_application_says_so(client, prefix, telegram):
    """Forgetting to set it is named at the start."""
    processor = UpdateProcessor(client, prefix=prefix)
    builder = Application.builder().token("42:TEST").base_url(f"{telegram.url}/bot")
    application = builder.updater(None).concurrent_updates(processor).build()
    with pytest.raises(SettingsError, match="set `processor"):
        await application.initialize()
    await application.bot.shutdown()


# --- the persistence


@pytest.mark.basic
@pytest.mark.requirement("S9")
async def test_every_kind_of_data_comes_back(persistence_of):
    """Users, chats, the bot, callbacks and conversations; dropped is gone."""
    one = persistence_of()
    data = {"a": 1, 7: (1, 2), ("x", 1): {"y"}}
    await one.update_user_data(1, data)
    await one.update_chat_data(-1, data)
    await one.update_bot_data(data)
    callbacks = ([("id", 1.5, {"k": 1})], {"q": "id"})
    await one.update_callback_data(callbacks)
    await one.update_conversation("c", (1, 2), 5)
    await one.update_conversation("c", (1, 3), 6)
    await one.update_conversation("c", (1, 3), None)

    two = persistence_of(preload=True)
    assert await two.get_user_data() == {1: data}
    assert await two.get_chat_data() == {-1: data}
    assert await two.get_bot_data() == data
    assert await two.get_callback_data() == callbacks
    assert await two.get_conversations("c") == {(1, 2): 5}
    await two.drop_user_data(1)
    await two.drop_chat_data(-1)
    three = persistence_of(preload=True)
    assert await three.get_user_data() == await three.get_chat_data() == {}
    assert await persistence_of().get_user_data() == {}


@pytest.mark.advanced
async def test_processes_that_change_different_keys_keep_both(persistence_of):
    """Only what changed is written, and only what changed elsewhere is read."""
    one, two = persistence_of(), persistence_of()
    here, there = {"a": 1, "b": 1, "c": 1}, {}
    await one.update_bot_data(here)
    await two.refresh_bot_data(there)
    assert there == here

    here["b"] = 2
    await one.update_bot_data(here)
    there["a"] = 2  # it has not read b
    del there["c"]
    await two.update_bot_data(there)
    here["mine"] = "not written yet"
    await one.refresh_bot_data(here)
    assert here == {"a": 2, "b": 2, "mine": "not written yet"}
    await one.update_bot_data(here)
    await two.refresh_bot_data(there)
    assert there == here


@pytest.mark.advanced
async def test_a_save_that_waits_for_its_turn_writes_no_older_value(persistence_of):
    """Between making and running a save another process's change is read, and stays."""
    one, two = persistence_of(), persistence_of()
    here, there = {"a": 1, "b": 1}, {}
    await one.update_user_data(1, here)
    await two.refresh_user_data(1, there)
    saving = one.update_user_data(1, dict(here))
    await two.update_user_data(1, {**there, "a": 2})
    await one.refresh_user_data(1, here)
    await saving

    assert await persistence_of(preload=True).get_user_data() == {1: {"a": 2, "b": 1}}
    assert here == {"a": 2, "b": 1}


def stored(data):
    """Return a dict as it is in Redis."""
    return {
        _values.encode(key): _values.placed(place, _values.encode(value))
        for place, (key, value) in enumerate(data.items())
    }


KEYS = st.sampled_from(["a", "b", 1, (1, 2)])
DATA = st.dictionaries(KEYS, st.integers(0, 3) | st.lists(st.integers(0, 1)))


@pytest.mark.advanced
@given(DATA, DATA, DATA)
def test_a_read_keeps_what_changed_here_and_takes_what_changed_there(base, here, there):
    """For any three states, a key changed here stays, and any other is as there."""

    class Offline(Persistence):
        """A persistence whose Redis has what the test says."""

        async def _read(self, key):
            return stored(there)

        def _key(self, name):
            return ""

    persistence = object.__new__(Offline)
    seen_before(persistence, {("user", 1): stored(base)})
    data = dict(here)
    asyncio.run(persistence.refresh_user_data(1, data))

    for key in base.keys() | here.keys() | there.keys():
        changed_here = base.get(key) != here.get(key) or (key in base) != (key in here)
        expected = here if changed_here else there
        assert (key in data, data.get(key)) == (key in expected, expected.get(key))
    if stored(there) != stored(base):
        both = there.keys() & data.keys()
        assert [key for key in data if key in both] == [
            key for key in there if key in both
        ]


@pytest.mark.errors
async def test_what_could_not_be_written_is_written_later(own, persistence_of):
    """Redis away: it is kept, survives a read, and `flush` writes it."""
    async with Client.from_url(own.url, command_timeout=1.0) as client:
        persistence = persistence_of(client)
        data = {"a": 1}
        await persistence.update_user_data(1, data)
        own.kill()
        data["b"] = 2
        for call in (
            persistence.update_user_data(1, dict(data)),
            persistence.refresh_user_data(1, data),
            persistence.flush(),
        ):
            with pytest.raises(OddswireError):
                await call
        assert data == {"a": 1, "b": 2}
        await own.restart()
        async with asyncio.timeout(60):
            while True:
                try:
                    await persistence.flush()
                    break
                except OddswireError:
                    await asyncio.sleep(0.05)
        assert b'"b"' in await client.hgetall(persistence_key(persistence, ("user", 1)))


@pytest.mark.errors
@pytest.mark.parametrize(
    ("field", "value"),
    [
        (b'"b"', b"{"),
        (b'"b"', b'@1:{"$later": 1}'),
        (b"[1]", b"1"),
        (b"\xff", b"1"),
    ],
    ids=["value", "newer", "key", "bytes"],
)
async def test_a_value_that_cannot_be_read_costs_itself(
    client, persistence_of, caplog, field, value
):
    """The others are read and written, it stays as it is, and the log says so once."""
    persistence = persistence_of()
    await persistence.update_bot_data({"a": 1, "c": 3})
    key = persistence_key(persistence, ("bot", 0))
    await client.hset(key, field, value)

    restarted = persistence_of()
    data = await restarted.get_bot_data()
    assert data == {"a": 1, "c": 3}
    del data["c"]
    data["a"] = 2
    await restarted.update_bot_data(data)
    await restarted.refresh_bot_data(data)
    assert data == {"a": 2}
    assert await client.hget(key, field) == value
    assert await client.hlen(key) == 2
    assert caplog.text.count("value_left_out") == 1
    if field == b'"b"':
        await restarted.update_bot_data({**data, "b": 5})
        assert await persistence_of().get_bot_data() == {"a": 2, "b": 5}


@pytest.mark.errors
async def test_damaged_states_and_callbacks_cost_themselves(client, persistence_of):
    """A bot starts with what can be read of its conversations and keyboards."""
    one = persistence_of()
    await one.update_conversation("c", (1, 2), 5)
    await client.hset(conversations_key(one, "c"), b"[1]", b"{")
    callbacks = ([("u1", 1.5, {"k": 1}), ("u2", 1.5, {})], {"q": "u1"})
    await one.update_callback_data(callbacks)
    key = persistence_key(one, ("callbacks", 0))
    for field, value in ((b'"x"', b"1"), (b"7", b"1"), (b'["a"]', b"{")):
        await client.hset(key, field, value)

    assert await persistence_of().get_conversations("c") == {(1, 2): 5}
    assert await persistence_of().get_callback_data() == callbacks


@pytest.mark.errors
@pytest.mark.requirement("S9")
async def test_a_key_of_another_type_ends_with_what_is_written(
    client, persistence_of, caplog
):
    """Another program's list keeps no bot from starting; it stays until a write."""
    one = persistence_of()
    callbacks = ([("u1", 1.5, {"k": 1})], {"q": "u1"})
    keys = [
        *(persistence_key(one, name) for name in (("bot", 0), ("user", 1))),
        persistence_key(one, ("callbacks", 0)),
        conversations_key(one, "c"),
    ]
    for key in keys:
        await client.rpush(key, "of somebody else")

    assert await one.get_bot_data() == {}
    assert await one.get_callback_data() is None
    assert await one.get_conversations("c") == {}
    for _ in range(2):
        await one.refresh_user_data(1, {})
    assert caplog.text.count("value_left_out") == len(keys)
    assert [await client.type(key) for key in keys] == [b"list"] * len(keys)

    await one.update_bot_data({"a": 1})
    await one.update_user_data(1, {"b": 2})
    await one.update_callback_data(callbacks)
    await one.update_conversation("c", (1, 2), 5)
    other = persistence_of(preload=True)
    assert await other.get_bot_data() == {"a": 1}
    assert await other.get_user_data() == {1: {"b": 2}}
    assert await other.get_callback_data() == callbacks
    assert await other.get_conversations("c") == {(1, 2): 5}


@pytest.mark.errors
@pytest.mark.requirement("S9")
async def test_a_value_that_cannot_be_stored_costs_itself(persistence_of):
    """The others are written; it is said once, and again after it was mended."""
    persistence = persistence_of()
    data = {"lang": "de", "pool": object(), "visits": 0}
    with pytest.raises(CodecError, match=r'without "pool": object cannot be stored'):
        await persistence.update_user_data(1, data)
    for visits in (1, 2):
        await persistence.update_user_data(1, {**data, "visits": visits})
    found = await persistence_of(preload=True).get_user_data()
    assert found == {1: {"lang": "de", "visits": 2}}

    # What was stored of its key before stays.
    await persistence.update_user_data(1, {**data, "pool": "mended"})
    with pytest.raises(CodecError):
        await persistence.update_user_data(1, {"pool": object()})
    with pytest.raises(CodecError, match="a key of type object"):
        await persistence.update_user_data(1, {"pool": "b", object(): 1})
    assert await persistence_of(preload=True).get_user_data() == {1: {"pool": "b"}}


@pytest.mark.errors
@pytest.mark.requirement("S9")
async def test_what_is_too_large_costs_itself(persistence_of):
    """The largest growth is left out until the rest fits; what was stored stays."""
    persistence = persistence_of(max_size=100)
    data = {"lang": "de", "blob": "x" * 90, "note": "y" * 40}
    with pytest.raises(CodecError, match='"blob"') as caught:
        await persistence.update_user_data(1, data)
    assert caught.value.reason == "too_large"
    await persistence.update_user_data(1, {**data, "lang": "en"})
    found = await persistence_of(preload=True).get_user_data()
    assert found == {1: {"lang": "en", "note": "y" * 40}}

    small = {**data, "blob": "x" * 20}
    await persistence.update_user_data(1, small)
    with pytest.raises(CodecError, match='"blob"'):
        await persistence.update_user_data(1, {**data, "lang": "fr"})
    # Less room than what is stored: it may become smaller all the same.
    lowered = persistence_of(max_size=40)
    found = small | {"lang": "fr"}
    await lowered.refresh_user_data(1, here := {})
    assert here == found
    here["note"] = ""
    await lowered.update_user_data(1, here)
    assert await persistence_of(preload=True).get_user_data() == {1: here}


@pytest.mark.integration
@pytest.mark.requirement("S9")
async def test_a_full_cache_of_keyboards_is_stored_by_keyboard(client, persistence_of):
    """A thousand keyboards above the cap of one; a tap writes its keyboard alone."""
    buttons = {f"button {number}": ("order", number, "x" * 40) for number in range(10)}
    keyboards = [(f"uuid {number}", 1.5, dict(buttons)) for number in range(1024)]
    persistence = persistence_of()
    await persistence.update_callback_data((keyboards, {}))
    before = (await client.info("stats"))["total_net_input_bytes"]
    keyboards[500][2]["button 5"] = ("changed",)
    await persistence.update_callback_data((keyboards, {"query": "uuid 500"}))
    after = (await client.info("stats"))["total_net_input_bytes"]

    assert after - before < 20_000  # all of it are 1.2 MB
    assert await persistence_of().get_callback_data() == (
        keyboards,
        {"query": "uuid 500"},
    )
    large = ("large", 1.5, {"b": "x" * 2_000_000})
    with pytest.raises(CodecError, match="large"):
        await persistence.update_callback_data(([*keyboards[1:], large], {}))
    assert await persistence_of().get_callback_data() == (keyboards[1:], {})
    with pytest.raises(CodecError, match="CallbackDataCache"):
        await persistence.update_callback_data({"not": "that"})


@pytest.mark.advanced
async def test_callback_data_of_one_value_is_read_and_replaced(client, persistence_of):
    """What an earlier version stored goes on, and is written by keyboard."""
    old = ([("u", 1.5, {"k": 1})], {"q": "u"})
    one = persistence_of()
    key = persistence_key(one, ("callbacks", 0))
    await client.hset(key, b'"data"', _values.encode(old))
    assert await one.get_callback_data() == old
    await one.update_callback_data(old)
    assert await client.hlen(key) == 2
    assert await persistence_of().get_callback_data() == old


ORDERS = st.lists(st.permutations("abcde").map(tuple), min_size=1, max_size=4)


@pytest.mark.advanced
@pytest.mark.requirement("S9")
@given(ORDERS, st.integers(0, 5))
def test_a_dict_comes_back_in_its_order(redis_server, orders, size):
    """Whatever order its keys are put in, and whoever wrote it before."""

    async def main():
        async with Client.from_url(redis_server.url) as client:
            prefix = f"order-{uuid4().hex[:12]}:"
            first = Persistence(client, prefix=prefix)
            first.bot = SimpleNamespace(id=42)
            for number, keys in enumerate(orders):
                data = {(key, 1): number * (key in "ab") for key in keys[:size]}
                await first.update_user_data(1, data)
                second = Persistence(client, prefix=prefix)
                second.bot = first.bot
                await second.refresh_user_data(1, found := {})
                assert list(found.items()) == list(data.items())
            await first.drop_user_data(1)

    asyncio.run(main())


@pytest.mark.advanced
async def test_keys_of_two_processes_keep_one_order(persistence_of):
    """Added at the same time they are in the same order in both, and stay unwritten."""
    one, two = persistence_of(), persistence_of()
    here = {"b": 1, "a": 1}
    await one.update_bot_data(here)
    await two.refresh_bot_data(there := {})
    here["z"] = 1
    there["y"] = 1
    await one.update_bot_data(here)
    await two.update_bot_data(there)
    await one.refresh_bot_data(here)
    await two.refresh_bot_data(there)
    assert list(here) == list(there) == ["b", "a", "y", "z"]
    assert unsaved(one, ("bot", 0), here) == {}


@pytest.mark.errors
async def test_too_much_data_and_other_types_are_refused(persistence_of):
    """Typed errors, and what was written before stays."""
    persistence = persistence_of(max_size=50)
    await persistence.update_user_data(1, {"a": 1})
    with pytest.raises(CodecError) as caught:
        await persistence.update_user_data(1, {"a": "x" * 60})
    assert caught.value.reason == "too_large"
    with pytest.raises(CodecError):
        await persistence.update_user_data(1, [1])
    assert await persistence_of(preload=True).get_user_data() == {1: {"a": 1}}
    with pytest.raises(SettingsError):
        persistence_of(max_size=0)


# --- limits


@asynccontextmanager
async def sending(telegram, limiter, **options):
    """Run a bot behind our limits."""
    options.setdefault("overall", Rule("bot", SlidingWindow(1000, 1.0), key="bot"))
    application = (
        Application.builder()
        .token("42:TEST")
        .base_url(f"{telegram.url}/bot")
        .updater(None)
        .rate_limiter(RateLimiter(limiter, bot_id=42, **options))
        .build()
    )
    async with application:
        yield application.bot


@pytest.mark.integration
@pytest.mark.requirement("R4")
async def test_a_429_holds_another_process_back(
    server, limiter, prefix, telegram, worker
):
    """Telegram's pause for one process holds for a real second one."""
    other = await worker("send", server.url, prefix, telegram.url, 42)
    assert await other.stdout.readline() == b"ready\n"
    async with sending(telegram, limiter, retries=0) as bot:
        loop = asyncio.get_running_loop()
        began, telegram.flood = loop.time(), (1, 2)
        with pytest.raises(RetryAfter):
            await bot.send_message(1, "a")
        assert await other.stdout.readline() == b"sent\n"
        assert loop.time() - began > 1.9
    assert telegram.refused == 1


@pytest.mark.integration
@pytest.mark.requirement("R4")
async def test_messages_wait_for_their_limits_and_a_429_is_waited_out(
    telegram, limiter
):
    """Chats and groups have limits of their own; a priority is taken."""
    rules = {
        "chat": Rule("chat", SlidingWindow(1, 60.0), key="chat"),
        "group": Rule("group", SlidingWindow(2, 60.0), key="chat"),
        "timeout": 1.5,
    }
    async with sending(telegram, limiter, **rules) as bot:
        telegram.flood = (1, 1)
        with pytest.raises(RateLimited):  # the second try is over the chat's limit
            await bot.send_message(1, "a")
        for _ in range(2):
            await bot.send_message(-2, "a", rate_limit_args=Priority.HIGH)
        with pytest.raises(RateLimited):
            await bot.send_message(-2, "a")
    assert len(telegram.sent) == 2
