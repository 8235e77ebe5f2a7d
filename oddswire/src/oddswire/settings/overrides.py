"""`Overrides`: the fields of `Settings` as keywords that a type checker knows."""

from __future__ import annotations

from typing import TypedDict

from oddswire.settings.profiles import Profile  # noqa: TC001 - for get_type_hints
from oddswire.settings.values import ReadFrom  # noqa: TC001 - the same


class Overrides(TypedDict, total=False):
    """What `connect` and `Settings.from_env` take beside the environment.

    A test compares it with the fields of `Settings`.
    """

    profile: Profile
    url: str | None
    cache_url: str | None
    username: str | None
    password: str | None
    database: int | None
    sentinels: str | None
    sentinel_username: str | None
    sentinel_password: str | None
    prefix: str
    tls_verify: bool
    tls_check_hostname: bool
    tls_ca_file: str | None
    tls_cert_file: str | None
    tls_key_file: str | None
    server_bin: str | None
    private_hosts: str | None
    read_from: ReadFrom
    pool_min: int
    pool_max: int
    acquire_timeout: float
    pool_idle: float
    connect_timeout: float
    command_timeout: float
    side_timeout: float
    drain_timeout: float
    keepalive: float
    tcp_user_timeout: float
    retries: int
    reconnect_delay: float
    reconnect_cap: float
    reconnect_attempts: int
    reconnect_probe: float
    heartbeat: float
    heartbeat_tracked: float
    heartbeat_subscriber: float
    heartbeat_answer: float
    inflight_commands: int
    inflight_bytes: int
    slow_above: float
    session_ttl: float
    session_max: int
    session_cleanup: float
    session_compression: bool
    session_encryption: bool
    encryption_key: str | None
    encryption_key_file: str | None
    cache_ttl: float
    cache_max_size: int
    cache_compress_above: int
    cache_publish: bool
    rate_limit_window: float
    rate_limit_requests: int
    rate_limit_processes: int
