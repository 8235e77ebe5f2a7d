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

_OBJECT, _COMMANDS = "TestRedisClusterObj::", "TestRedisCommands::"
_CLUSTER, _PIPELINE = "TestClusterRedisCommands::", "TestClusterPipeline::"
_TRANSACTION = "TestClusterTransaction::"

# On a cluster: the reason, and the tests that it is the reason of.
_ON_CLUSTER = {
    "is about one node, which redis-py chooses: an answer of one in three looks like "
    "that of the cluster, so it is refused (NotOnCluster); `primaries()` are asked": (
        _OBJECT + "test_not_require_full_coverage_cluster_down_error",
        *(
            _CLUSTER + name
            for name in (
                *("test_bgsave", "test_slowlog_get_limit", "test_client_unpause"),
                "test_memory_malloc_stats",
            )
        ),
        *(
            _COMMANDS + name
            for name in (
                *("test_acl_cat_no_category", "test_acl_cat_with_category"),
                *("test_acl_deluser", "test_acl_genpass", "test_acl_list"),
                *("test_acl_getuser_setuser", "test_acl_users", "test_acl_whoami"),
                "test_acl_setuser_categories_without_prefix_fails",
                "test_acl_setuser_commands_without_prefix_fails",
                "test_acl_setuser_add_passwords_and_nopass_fails",
                *("test_client_list_type", "test_client_list_after_client_setname"),
                *("test_config_get", "test_config_set", "test_memory_stats"),
                "test_module_list",
            )
        ),
    ),
    "asks for redis-py's words; ours, of a subclass of the same class, name the keys "
    "and their slots": (
        _TRANSACTION + "test_throws_exception_on_different_hash_slots",
        _TRANSACTION + "test_throws_exception_with_watch_on_different_hash_slots",
    ),
    "asks for the words of redis-py's pipeline over a cluster; ours has those of its "
    "pipeline on one server": (_TRANSACTION + "test_parse_error_raised",),
    "asks for an error of redis-py's; ours sends GET without a key, and the server "
    "says what is wrong with it": (_OBJECT + "test_execute_command_errors",),
    "asks that a pipeline refuses transactions and many commands; ours runs them where "
    "all keys are in one slot": (
        _PIPELINE + "test_blocked_arguments",
        _PIPELINE + "test_blocked_methods",
    ),
    "has MSET split within a pipeline: how many results it has would depend on the "
    "slots, so ours does not offer it": (
        _PIPELINE + "test_redis_cluster_pipeline",
        _PIPELINE + "test_can_run_concurrent_pipelines",
    ),
}
REASONS_ON_CLUSTER = {
    test: reason for reason, tests in _ON_CLUSTER.items() for test in tests
}
REASONS_ON_CLUSTER_OF_LINE = {
    "8.1.0": {
        _CLUSTER + "test_acl_log": (
            "counts the refusals of a user with few rights: redis-py's CLIENT SETINFO "
            "is one"
        ),
    },
}
