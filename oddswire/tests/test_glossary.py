"""The words of the field: a private word of ours does not come back."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import oddswire

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE = Path(oddswire.__file__).parent

# In every package: several things had this name.
EVERYWHERE = {
    "Statistics": "...Stats",
    "statistics": "stats",
    "wires": "connections",
    "greeting": "server_info",
    "dice": "rng",
    "out_of_step": "protocol_desync",
    "began_anew": "starts_chain",
    "telling": "on_reply",
}

# By package: a word that was ours alone, and the field's word for it.
WORDS = {
    "cache": {
        "Parts": "Cache",
        "Many": "Cache",
        "Refreshing": "Cache",
        "Invalidating": "Cache",
        "Recalling": "Cache",
        "Want": "LoadRequest",
        "Fresh": "Lifetime",
        "Load": "LoadContext",
        "Flights": "Loader",
        "Lookup": "Loader",
        "Claims": "Loader",
        "rob": "steal",
        "Elsewhere": "LoadingElsewhere",
        "Held": "LockedBy",
        "held": "owns_lease",
        "hold": "owns_lease",
        "born": "invalidation_epoch",
        "Renewals": "Loader",
        "Aside": "DegradedStore",
        "away": "redis_down",
        "gone_away": "note_redis_down",
        "Shared": "L2",
        "Memory": "L1",
        "Reader": "LookupResult",
        "Found": "LookupResult",
        "judge": "validate",
        "unjudged": "pending_validation",
        "calm": "refresh_due",
        "calm_until": "early_refresh_at",
        "sure_until": "valid_until",
        "opened": "parse_header",
        "Cell": "TagVersion",
        "cell": "tag_version",
        "Nonces": "TagVersions",
        "coming": "pending",
        "mark": "generation",
        "beat": "heartbeat",
        "in_time": "ensure_current",
        "timely_until": "current_until",
        "untold": "untracked",
        "UNTOLD": "UNKNOWN",
        "TrackedWire": "TrackingConnection",
        "wire": "connection",
        "plain": "untracked",
        "listens": "by_pubsub",
        "expect": "expect_echo",
        "step_down": "fall_back",
        "step_up": "retry_tracking",
        "told": "with_publish",
        "telling": "on_reply",
        "Cap": "SizeLimiter",
        "Space": "NamespaceState",
        "Spaces": "Namespaces",
        "Place": "CacheKey",
        "place": "key",
        "glance": "hit",
        "recall": "peek",
        "spoil": "invalidate_one",
        "Gatherer": "Batcher",
        "settle": "resolve",
        "kind": "value_type",
        "Counts": "CacheCounters",
    },
    "connection": {
        "Named": "CallLabel",
        "Label": "CallLabel",
        "Plan": "CallOptions",
        "Traffic": "ConnectionMetrics",
        "traffic": "metrics",
        "Gate": "FlowControl",
        "gate": "flow",
        "Caps": "Limits",
        "caps": "limits",
        "shut": "paused",
        "Link": "ReconnectingConnection",
        "arm": "on_connect",
        "Hello": "HandshakeOptions",
        "introduce": "hello_factory",
        "Greeting": "ServerInfo",
        "secretive": "info_denied",
        "PASSING": "TRANSIENT_ERRORS",
        "greeting": "server_info",
        "Roster": "PoolState",
        "Work": "PoolActions",
        "hand": "assign",
        "back": "release",
        "ask": "acquire",
        "most": "max_size",
        "keep": "min_idle",
        "dice": "rng",
        "Whole": "HardenedConnection",
        "whole": "hardened",
        "WirePool": "ExclusivePool",
        "Owner": "LoopGuard",
        "claim": "check",
        "Outage": "OutageBackoff",
        "probes": "keepalive_options",
        "staggered": "open_socket",
        "copy_of": "clone_error",
        "for_others": "for_waiters",
        "out_of_step": "protocol_desync",
        "give_up": "abandon",
        "wire": "connection",
        "wires": "connections",
    },
    "client": {
        "Calling": "Client",
        "the_long_way": "execute_slow",
        "refused": "on_error_reply",
        "learn": "command_spec",
        "known_command": "command_spec",
        "Command": "CommandSpec",
        "plain": "is_fast_path",
        "again": "retry",
        "longest": "blocking_timeout",
        "TAKES_OVER": "TAKES_OVER_CONNECTION",
        "shaped": "parse_reply",
        "counted": "count_failure",
        "demoted": "leave_if_demoted",
        "exclusively": "run_exclusively",
        "unhurried": "blocking_deadline",
        "catch_up": "cover_earlier_writes",
        "aside": "out_of_band",
        "Seat": "CommandSlot",
        "seat": "slot",
        "Wires": "Connections",
        "wires": "connections",
        "wire": "connection",
        "open_wire": "ready_connection",
        "link": "command",
        "arm": "on_connect",
        "Statistics": "ClientStats",
        "statistics": "stats",
        "WireCounts": "ConnectionCounts",
    },
    "ratelimit": {
        "Deciding": "Evaluator",
        "ask": "evaluate",
        "usual": "packed_fast_request",
        "Bucket": "SubjectState",
        "Part": "Demand",
        "parts": "demands",
        "hold": "headroom",
        "RuleBook": "RateLimiter",
        "Waiting": "WaitQueue",
        "Line": "Flow",
        "lines": "flows",
        "tag": "virtual_time",
        "parked": "blocked",
        "kick": "wake",
        "Share": "LocalQuota",
        "Shares": "LocalQuota",
        "book": "report_usage",
        "alone": "decide_locally",
        "Taken": "Reservation",
        "give_back": "release",
        "away": "redis_down",
        "whole": "check_int",
        "seconds": "check_duration",
        "never": "NO_RETRY",
        "Statistics": "LimiterStats",
        "statistics": "stats",
    },
    "sessions": {
        "Engine": "Sessions",
        "Members": "Sessions",
        "Wish": "PendingUpdate",
        "Groups": "UpdateBatcher",
        "Lines": "FifoLocks",
        "Turn": "Ticket",
        "line_up": "acquire",
        "Form": "SessionCodec",
        "Packing": "SessionCodec",
        "Layout": "SessionSchema",
        "Near": "LocalCache",
        "near": "local_size",
        "Reading": "ReadTicket",
        "Mirror": "IndexReplica",
        "mirrored": "lookup",
        "Heard": "Changes",
        "Missed": "Reset",
        "Announced": "Change",
        "Backing": "WriteThrough",
        "Restoring": "WriteThrough",
        "Ledger": "IntentLog",
        "Mark": "WriteIntent",
        "mark": "intent",
        "marks": "intents",
        "noted": "known_versions",
        "unmark": "withdraw",
        "settled": "wait_for_intent",
        "Kept": "SourceRecord",
        "Place": "RedisState",
        "away": "evicted",
        "Upkeep": "Maintenance",
        "Rebuilding": "Rebuild",
        "joins": "index_adds",
        "leaves": "index_removes",
        "flat": "to_args",
        "told": "encode_entries",
        "Terms": "Expiry",
        "Answer": "ScriptResult",
        "link": "random_id",
        "shift": "clock_offset",
        "short": "expiring",
        "named_otherwise": "wrong_blinding_key_error",
        "SessionStatistics": "SessionStats",
        "statistics": "stats",
    },
    "pubsub": {
        "Line": "TopicState",
        "line": "state",
        "lines": "states",
        "Inbox": "Buffer",
        "VolatileInbox": "VolatileBuffer",
        "LatestInbox": "LatestBuffer",
        "LogInbox": "LogBuffer",
        "Positions": "Offsets",
        "Handling": "Consumer",
        "handlers": "Consumer",
        "Reader": "Subscriber",
        "mark": "run",
        "mark_of": "run_of",
        "told": "on_head",
        "interrupted": "on_disconnect",
        "dice": "random_hex",
        "place": "offset",
        "began_anew": "starts_chain",
        "wire": "connection",
        "Counts": "TopicCounts",
        "Statistics": "PubSubStats",
        "TopicStatistics": "TopicStats",
        "statistics": "stats",
    },
    "queue": {
        "Taken": "LeasedMessage",
        "taken": "leased",
        "Batch": "LeasedBatch",
        "Held": "Delivery",
        "held": "delivery",
        "Ending": "Settlement",
        "Counts": "QueueCounts",
        "QueueStatistics": "QueueStats",
        "statistics": "stats",
        "duration": "check_seconds",
        "switch": "pause_label",
        "farewell": "RELEASE_TIMEOUT",
    },
    "adapters": {
        "Turns": "UpdateLocks",
        "turns": "locks",
        "before_turns": "before_isolation",
        "Sending": "SendLimiter",
        "Once": "Deduplicate",
        "Outgoing": "SendLimits",
    },
    "embedded": {
        "Home": "ServerDir",
        "Run": "ServerProcess",
        "see_through": "run_shielded",
    },
    "cli": {
        "Patient": "Target",
        "Shapes": "CommandTable",
        "tell": "progress",
        "NotTold": "NotAnswered",
    },
}


def names(tree: ast.AST) -> Iterator[str]:
    """Yield the names that a reader meets outside of one function.

    Classes, functions and their parameters, fields, attributes, constants.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef):
            yield from constants(node.body)
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name):
                yield name
            case ast.AsyncFunctionDef(name=name):
                yield name
            case ast.arg(arg=name):
                yield name
            case ast.AnnAssign(target=ast.Name(id=name)):
                yield name
            case ast.Attribute(attr=name, ctx=ast.Store()):
                yield name


def constants(body: list[ast.stmt]) -> Iterator[str]:
    """Yield the names that a module or a class assigns."""
    for statement in body:
        if isinstance(statement, ast.Assign):
            for target in statement.targets:
                if isinstance(target, ast.Name):
                    yield target.id


def came_back(words: dict[str, str], path: Path, text: str) -> Iterator[str]:
    """Yield a line for each private word in the name or the text of a module."""
    files = {word.replace("_", "").lower() for word in words}
    files.discard("statistics")  # the file of the structs
    if path.stem.replace("_", "") in files:
        yield path.name
    for name in names(ast.parse(text)):
        if name.strip("_") in words:
            yield f"{path.name}: {name} is {words[name.strip('_')]}"


@pytest.mark.basic
@pytest.mark.parametrize("package", ["", *WORDS])
def test_a_private_word_does_not_come_back(package):
    """No file, class, function, field or constant has a word that the field lacks."""
    words = WORDS.get(package, {}) | EVERYWHERE
    assert not [
        line
        for path in sorted((SOURCE / package).rglob("*.py"))
        for line in came_back(words, path, path.read_text(encoding="utf-8"))
    ]


@pytest.mark.basic
@pytest.mark.parametrize(
    "text",
    [
        "class Roster: ...",
        "class Pool:\n    class _Roster: ...",
        "def roster(): ...",
        "class Pool:\n    async def _roster(self): ...",
        "def pool(*, roster=1): ...",
        "class Pool:\n    roster: int",
        "class Pool:\n    ROSTER = roster = 1",
        "roster = ROSTER = 1",
        "class Pool:\n    def __init__(self): self._roster = 1",
    ],
)
def test_a_private_word_is_found_in_each_place(text):
    """A word is found as a class, a function, a parameter, a field or a constant."""
    words = {"Roster": "PoolState", "roster": "PoolState"}
    assert list(came_back(words, Path("_pool.py"), text))
    assert list(came_back({"the_long_way": ""}, Path("_the_long_way.py"), ""))
    assert not list(came_back(words, Path("_pool.py"), text.replace("oster", "oom")))
