"""The one table of all settings: field, variable, what is accepted, what it means."""

from __future__ import annotations

from typing import Final

import msgspec

from oddswire.settings.endpoint import MAX_DATABASE
from oddswire.settings.profiles import PROFILES
from oddswire.settings.values import (
    Addresses,
    Count,
    Duration,
    Flag,
    Kind,
    Prefix,
    Text,
    Url,
)

_DAY = 86_400.0
_MIB = 1024 * 1024
_PATH = Text("the path of a file")


class Option(msgspec.Struct, frozen=True):
    """One setting.

    Attributes:
        field: The field of `Settings`.
        variable: The environment variable.
        kind: What is accepted.
        doc: One line.
        optional: Whether None, for "not set", is accepted.
        secret: Whether the value is hidden wherever it would be shown.
        blank: Whether empty text is "not set", as for credentials of a server that
            asks for none.
        completes: Whether it says who we are at the server of the URL, or who leads
            there: it belongs to that URL and to no other.
        program: Whether it names a program to run, which no file may do.
    """

    field: str
    variable: str
    kind: Kind
    doc: str
    optional: bool = False
    secret: bool = False
    blank: bool = False
    completes: bool = False
    program: bool = False


def _ms(low: float, high: float) -> Duration:
    return Duration(low, high, milliseconds=True)


_HOST = r"\.?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?"
_HOSTS = Text(
    'names, or suffixes such as ".svc.cluster.local", with commas between',
    rf"{_HOST}(\s*,\s*{_HOST})*",
)
_CHOICES = Text(f"one of {', '.join(PROFILES)}", "|".join(PROFILES))

OPTIONS: Final[tuple[Option, ...]] = (
    # --- where the server is
    Option("profile", "ODDSWIRE_PROFILE", _CHOICES,
           "which defaults and which safety rules apply"),
    Option("url", "REDIS_URL", Url(),
           "the server; unset: a server of our own, in development and test only",
           optional=True),
    Option("cache_url", "ODDSWIRE_CACHE_URL", Url(),
           "a second, disposable server for the cache, with its own credentials; "
           "unset: the same server", optional=True),
    Option("username", "ODDSWIRE_USERNAME", Text("an ACL user name"),
           "completes the URL", optional=True, blank=True, completes=True),
    Option("password", "REDIS_PASSWORD", Text("a password"),
           "completes the URL", optional=True, secret=True, blank=True,
           completes=True),
    Option("database", "REDIS_DATABASE", Count(0, MAX_DATABASE),
           "completes the URL", optional=True, blank=True, completes=True),
    Option("sentinels", "ODDSWIRE_SENTINELS", Addresses(26379),
           "who knows where the primary is; the host of the URL is then its name",
           optional=True, completes=True),
    Option("sentinel_username", "ODDSWIRE_SENTINEL_USERNAME", Text("an ACL user name"),
           "at the sentinels themselves", optional=True, blank=True, completes=True),
    Option("sentinel_password", "ODDSWIRE_SENTINEL_PASSWORD", Text("a password"),
           "at the sentinels themselves", optional=True, secret=True, blank=True,
           completes=True),
    Option("prefix", "REDIS_KEY_PREFIX", Prefix(),
           "what every key begins with"),
    Option("tls_verify", "REDIS_TLS_REJECT_UNAUTHORIZED", Flag(),
           "check the server's certificate and name (rediss:// only); staging and "
           "production do"),
    Option("tls_check_hostname", "ODDSWIRE_TLS_CHECK_HOSTNAME", Flag(),
           "check that the certificate is for the server's name, beside its "
           "authority; staging and production do"),
    Option("tls_ca_file", "ODDSWIRE_TLS_CA_FILE", _PATH,
           "authorities to trust instead of the system's, PEM", optional=True),
    Option("tls_cert_file", "ODDSWIRE_TLS_CERT_FILE", _PATH,
           "our certificate for mutual TLS, PEM", optional=True),
    Option("tls_key_file", "ODDSWIRE_TLS_KEY_FILE", _PATH,
           "the key of our certificate, PEM", optional=True),
    Option("server_bin", "ODDSWIRE_SERVER_BIN", _PATH,
           "the program that a server of our own runs; not from a file",
           optional=True, program=True),
    Option("private_hosts", "ODDSWIRE_PRIVATE_HOSTS", _HOSTS,
           "names that lead to a private network: production sends plaintext to no "
           "other name", optional=True),
    # --- connections
    Option("pool_min", "REDIS_POOL_MIN", Count(2, 1000),
           "connections kept open: one for commands, one for the cache, the rest "
           "exclusive"),
    Option("pool_max", "REDIS_POOL_MAX", Count(2, 1000),
           "connections of all kinds together, at most; not below pool_min"),
    Option("acquire_timeout", "REDIS_POOL_ACQUIRE_TIMEOUT", _ms(0.001, 3600),
           "longest wait for an exclusive connection"),
    Option("pool_idle", "REDIS_POOL_IDLE_TIMEOUT", _ms(0.1, _DAY),
           "an exclusive connection unused for so long is closed"),
    Option("connect_timeout", "REDIS_CONNECT_TIMEOUT", _ms(0.001, 3600),
           "opening a connection, TLS and handshake included"),
    Option("command_timeout", "REDIS_COMMAND_TIMEOUT", _ms(0.001, 3600),
           "one call, its waits and retries included"),
    Option("side_timeout", "ODDSWIRE_SIDE_TIMEOUT", Duration(0.001, 60),
           "the same for calls of the limiter and the cache"),
    Option("drain_timeout", "REDIS_POOL_DESTROY_TIMEOUT", _ms(0, 3600),
           "how long closing waits for calls in flight"),
    Option("keepalive", "REDIS_KEEP_ALIVE", _ms(1, 7200),
           "silence after which the kernel probes the link"),
    Option("tcp_user_timeout", "ODDSWIRE_TCP_USER_TIMEOUT", Duration(0.1, 3600),
           "sent bytes unacknowledged for so long end the connection (Linux)"),
    Option("retries", "REDIS_MAX_RETRIES", Count(0, 100),
           "further attempts of a call that is safe to repeat, within its deadline"),
    Option("reconnect_delay", "REDIS_RETRY_DELAY", _ms(0.001, 60),
           "pause before the second attempt to connect; doubles with each"),
    Option("reconnect_cap", "ODDSWIRE_RECONNECT_CAP", Duration(0.001, 3600),
           "longest of these pauses; not below reconnect_delay"),
    Option("reconnect_attempts", "ODDSWIRE_RECONNECT_ATTEMPTS", Count(1, 10_000),
           "failed attempts in a row that open the circuit"),
    Option("reconnect_probe", "ODDSWIRE_RECONNECT_PROBE", Duration(0.1, 3600),
           "pause between attempts while the circuit is open"),
    Option("heartbeat", "REDIS_HEALTH_CHECK_INTERVAL", _ms(0.1, 3600),
           "silence after which the command connection is pinged"),
    Option("heartbeat_tracked", "ODDSWIRE_HEARTBEAT_TRACKED", Duration(0.05, 3600),
           "the same for the cache's connection, while its memory is read"),
    Option("heartbeat_subscriber", "ODDSWIRE_HEARTBEAT_SUBSCRIBER",
           Duration(0.05, 3600), "the same for the subscriber's connection"),
    Option("heartbeat_answer", "ODDSWIRE_HEARTBEAT_ANSWER", Duration(0.05, 3600),
           "a ping unanswered for so long ends the connection"),
    Option("inflight_commands", "ODDSWIRE_INFLIGHT_COMMANDS", Count(1, 1_000_000),
           "commands on one connection that wait for their replies, at most"),
    Option("inflight_bytes", "ODDSWIRE_INFLIGHT_BYTES",
           Count(1024, 1024 * _MIB, "bytes"), "bytes of these commands, at most"),
    Option("slow_above", "ODDSWIRE_SLOW_ABOVE", Duration(0.001, 3600),
           "a reply that takes longer counts as slow in the statistics"),
    # --- sessions
    Option("session_ttl", "SESSION_DEFAULT_TTL", Duration(60, 365 * _DAY),
           "a conversation without activity ends"),
    Option("session_max", "SESSION_MAX_CONCURRENT", Count(1, 100_000_000),
           "live sessions, at most"),
    Option("session_cleanup", "SESSION_CLEANUP_INTERVAL", _ms(1, _DAY),
           "pause between removals of ended sessions"),
    Option("session_compression", "SESSION_COMPRESSION", Flag(),
           "compress sessions"),
    Option("session_encryption", "SESSION_ENCRYPTION", Flag(),
           "encrypt sessions; needs a key"),
    Option("encryption_key", "ODDSWIRE_ENCRYPTION_KEY",
           Text("64 hexadecimal digits", "[0-9A-Fa-f]{64}"),
           "the key; the file is safer, for it is in no process listing",
           optional=True, secret=True),
    Option("encryption_key_file", "ODDSWIRE_ENCRYPTION_KEY_FILE", _PATH,
           "a file that holds the keys", optional=True),
    # --- cache
    Option("cache_ttl", "CACHE_DEFAULT_TTL", Duration(1, 365 * _DAY),
           "a value without a time to live of its own is kept so long"),
    Option("cache_max_size", "CACHE_MAX_SIZE", Count(_MIB, 1024**4, "bytes"),
           "memory of the cache in the server, at most"),
    Option("cache_compress_above", "CACHE_COMPRESSION_THRESHOLD",
           Count(0, 1024 * _MIB, "bytes"), "larger values are compressed"),
    Option("cache_publish", "ODDSWIRE_CACHE_PUBLISH", Flag(),
           "the cache publishes its writes, for processes that are refused CLIENT "
           "TRACKING; in all processes or in none"),
    # --- rate limits
    Option("rate_limit_window", "RATE_LIMIT_WINDOW_MS", _ms(0.001, 31 * _DAY),
           "window of the default rule"),
    Option("rate_limit_requests", "RATE_LIMIT_MAX_REQUESTS", Count(1, 1_000_000_000),
           "requests of the default rule in a window"),
    Option("rate_limit_processes", "ODDSWIRE_RATE_LIMIT_PROCESSES", Count(1, 10_000),
           "processes that share the limits, for a local share while Redis is away"),
)  # fmt: skip
"""Every setting, in the order of the reference page."""

UNUSED: Final[dict[str, str]] = {
    "REDIS_LAZY_CONNECT": "a Client connects on first use, a Wire when it is entered",
    "REDIS_OFFLINE_QUEUE": "a call waits for the connection within its own deadline",
    "REDIS_MEMORY_POLICY": "eviction is the server's setting: maxmemory-policy there",
    "REDIS_POOL_CREATE_TIMEOUT": "REDIS_CONNECT_TIMEOUT bounds opening a connection",
    "REDIS_POOL_REAP_INTERVAL": "an idle connection is closed when its time is up, "
    "which REDIS_POOL_IDLE_TIMEOUT sets",
    "REDIS_POOL_CREATE_RETRY_INTERVAL": "REDIS_RETRY_DELAY sets the pause between "
    "attempts to connect",
    "CACHE_EVICTION_POLICY": "eviction is the server's setting: maxmemory-policy there",
    "CACHE_ENABLE_METRICS": "counting is always on; exporting it is your choice",
    "CACHE_INVALIDATION_STRATEGY": "time, version, tags and by hand are always there, "
    "chosen by call",
    "RATE_LIMIT_SKIP_SUCCESS": "give a request back with limiter.refund",
    "RATE_LIMIT_SKIP_FAILED": "give a request back with limiter.refund",
}
"""Variables of the original that mean nothing here, and why."""
