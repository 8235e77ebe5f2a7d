"""Tests of redis-py's suite that our client fails on purpose, each with the reason.

`run.py` also fails when one of these passes: the table stays true.
"""

from __future__ import annotations

REASONS = {
    "test_bitfield_operations": (
        "begins with SELECT 10: on a shared connection it would move every caller to "
        "another database, so it is refused (NotShared); `client.client()` may"
    ),
    "test_client_no_evict": (
        "CLIENT NO-EVICT is about the connection it is sent on, which every caller "
        "shares, and gone with it, so it is refused (NotShared); `client.client()` may"
    ),
    "test_client_no_touch": (
        "CLIENT NO-TOUCH would change the shared connection for every caller, so it is "
        "refused (NotShared); `client.client()` may"
    ),
    "test_eval_msgpack_pipeline_error_in_lua": (
        "asks for the class ResponseError itself; ours is ScriptFailed, a subclass of "
        "it, because a script that failed may have written"
    ),
}

# By the version of redis-py: what a test meets on that line alone.
REASONS_OF_LINE = {
    "7.4.1": {
        "test_acl_log": (
            "counts the refusals of a user with few rights: without HELLO (RESP2, that "
            "line's default) our handshake asks PING and INFO, redis-py's CLIENT "
            "SETINFO"
        ),
    },
}
