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

# By package: a word that was ours alone, and the field's word for it.
WORDS = {
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
        "staggered": "happy_eyeballs",
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
    """Yield the classes, functions, fields and attributes that a module defines."""
    for node in ast.walk(tree):
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name):
                yield name
            case ast.AsyncFunctionDef(name=name):
                yield name
            case ast.AnnAssign(target=ast.Name(id=name)):
                yield name
            case ast.Attribute(attr=name, ctx=ast.Store()):
                yield name


@pytest.mark.basic
@pytest.mark.parametrize("package", WORDS)
def test_a_private_word_does_not_come_back(package):
    """No file, class, function or attribute has a word that the field does not use."""
    words = WORDS[package]
    files = {word.lower() for word in words} - {"statistics"}  # the file of the structs
    found = []
    for path in sorted((SOURCE / package).rglob("*.py")):
        if path.stem.strip("_").replace("_", "") in files:
            found.append(path.name)
        found += [
            f"{path.name}: {name} is {words[name.lstrip('_')]}"
            for name in names(ast.parse(path.read_text(encoding="utf-8")))
            if name.lstrip("_") in words
        ]
    assert not found
