"""Write Prometheus' rules and Grafana's dashboard; ``--check`` only compares.

Both are tables of expressions below. `make check` compares what is written with this
script, and a test asks a real Prometheus each expression.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
JOB = "oddswire"


def quantile(share: float, name: str, *by: str) -> str:
    """Return the expression of a quantile of a histogram, of 5 minutes."""
    labels = ", ".join(("le", "instance", *by))
    buckets = f"sum by ({labels}) (rate({name}_bucket[5m]))"
    return f"histogram_quantile({share}, {buckets})"


def p99(name: str, *by: str) -> str:
    """Return the expression of the 99th percentile of a histogram."""
    return quantile(0.99, name, *by)


def rate(name: str, *by: str, window: str = "5m") -> str:
    """Return the expression of a counter's rate a second."""
    return f"sum by ({', '.join(('instance', *by))}) (rate({name}[{window}]))"


def grown(name: str, window: str, *by: str) -> str:
    """Return the expression of how much a counter grew."""
    return f"sum by ({', '.join(('instance', *by))}) (increase({name}[{window}]))"


ERROR_SHARE = (
    f"{rate('oddswire_command_errors_total')} / {rate('oddswire_commands_total')}"
)
DEAD = (
    "sum by (instance, queue) "
    '(increase(oddswire_queue_messages_total{outcome="dead"}[15m]))'
)
TIERS = (
    "sum by (cache, result) (rate(oddswire_cache_requests_total[5m])) "
    "/ on (cache) group_left "
    "sum by (cache) (rate(oddswire_cache_requests_total[5m]))"
)

# Name, expression, how long, severity, what it means, what to do.
ALERTS: tuple[tuple[str, str, str, str, str, str], ...] = (
    (
        "OddswireDown", f'up{{job="{JOB}"}} == 0', "1m", "page",
        "The process does not answer a scrape.",
        "Look whether it runs, and at its log.",
    ),
    (
        "OddswireCircuitOpen", "oddswire_circuit_open == 1", "1m", "page",
        "Redis cannot be reached: calls fail at once.",
        "Run oddswire doctor beside the process.",
    ),
    (
        "OddswireSlowCommands",
        f"{p99('oddswire_command_duration_seconds')} > 0.05", "5m", "ticket",
        "One of a hundred commands takes more than 50 ms.",
        "Compare SLOWLOG GET of the server with oddswire_event_loop_lag_seconds.",
    ),
    (
        "OddswireCommandErrors",
        f"{ERROR_SHARE} > 0.01", "5m", "ticket",
        "More than one of a hundred commands fails.",
        "oddswire_command_errors_total has the class of the errors.",
    ),
    (
        "OddswireLoopLate",
        f"{p99('oddswire_event_loop_lag_seconds')} > 0.1", "5m", "ticket",
        "The event loop comes more than 100 ms late.",
        "Something in the process computes or blocks: look with py-spy.",
    ),
    (
        "OddswireClockSkew", "abs(oddswire_server_clock_skew_seconds) > 1", "5m",
        "ticket",
        "The clocks of the server and of this process differ by more than a second.",
        "Let both follow the same time servers (chrony, systemd-timesyncd).",
    ),
    (
        "OddswireCertificateEnds",
        "oddswire_tls_cert_expiry_timestamp_seconds - time() < 14 * 86400", "1h",
        "ticket",
        "The server's certificate ends in less than 14 days.",
        "Renew it; connections that are open go on, new ones would fail.",
    ),
    (
        "OddswireDegraded", "oddswire_degraded == 1", "10m", "ticket",
        "{{ $labels.part }} has been {{ $labels.mode }} for ten minutes.",
        "docs/guides/operations.md says what each mode means.",
    ),
    (
        "OddswireCacheDamaged",
        f"{grown('oddswire_cache_corrupt_total', '15m', 'cache')} > 0", "0m", "page",
        "Entries of {{ $labels.cache }} could not be read.",
        "Somebody else writes under the prefix, or the network damages data.",
    ),
    (
        "OddswireMemoryUnused", "oddswire_cache_tracked == 0", "5m", "ticket",
        "The server does not announce changes: memory of the process is hardly used.",
        "Let an administrator run what oddswire acl cache prints.",
    ),
    (
        "OddswireGaps",
        f"{grown('oddswire_pubsub_gaps_total', '15m', 'topic', 'reason')} > 0",
        "0m", "ticket",
        "Subscribers of {{ $labels.topic }} missed messages: {{ $labels.reason }}.",
        "Slow handlers, or a connection that was lost.",
    ),
    (
        "OddswireLimiterLocal", "oddswire_ratelimit_redis_down == 1", "1m", "ticket",
        "Each process decides rate limits by its own share.",
        "Redis did not answer in time: see the other alerts.",
    ),
    (
        "OddswireQueueLate", "oddswire_queue_oldest_seconds > 60", "5m", "page",
        "The oldest message of {{ $labels.queue }} has waited for more than a minute.",
        "No worker runs, or all of them are limited.",
    ),
    (
        "OddswireDeadLetters",
        f"{DEAD} > 0",
        "0m", "ticket",
        "Messages of {{ $labels.queue }} were given up.",
        "Queue.dead has them with their errors, Queue.replay puts them back.",
    ),
    (
        "OddswireLeasesLost",
        f"{grown('oddswire_locks_lost_total', '15m')} > 0", "0m", "ticket",
        "A lock's lease ended before its block did.",
        "The loop was late, or the lease is too short.",
    ),
    (
        "OddswireSampleOld", "oddswire_sample_age_seconds > 120", "1m", "ticket",
        "Sessions and queues were not counted for two minutes.",
        "Redis could not be asked: see the other alerts.",
    ),
)  # fmt: skip

# Title, unit, and (expression, legend) of each line.
Panel = tuple[str, str, tuple[tuple[str, str], ...]]
PANELS: tuple[Panel, ...] = (
    ("Calls a second", "ops", (
        (rate("oddswire_commands_total"), "{{instance}}"),
        (rate("oddswire_command_errors_total", "error"), "{{instance}} {{error}}"),
    )),
    ("Response time", "s", (
        (p99("oddswire_command_duration_seconds"), "p99 {{instance}}"),
        (quantile(0.5, "oddswire_command_duration_seconds"), "median {{instance}}"),
    )),
    ("Attempts made again", "ops", (
        (rate("oddswire_command_retries_total", "reason"), "{{instance}} {{reason}}"),
    )),
    ("Commands", "ops", ((rate("oddswire_commands_total", "command"), "{{command}}"),)),
    ("In flight and waiting", "short", (
        ("oddswire_commands_in_flight", "in flight {{instance}}"),
        ("oddswire_command_waiting", "waiting {{instance}}"),
    )),
    ("Circuit, and modes that last", "short", (
        ("oddswire_circuit_open", "circuit open {{instance}}"),
        ("oddswire_degraded", "{{part}} {{mode}}"),
    )),
    ("Event loop late", "s", (
        (p99("oddswire_event_loop_lag_seconds"), "{{instance}}"),
    )),
    ("Cache: share of lookups", "percentunit", (
        (TIERS, "{{cache}} {{result}}"),
    )),
    ("Cache: loads", "ops", (
        (rate("oddswire_cache_loads_total", "cache"), "{{cache}}"),
        (rate("oddswire_cache_load_errors_total", "cache"), "{{cache}} failed"),
    )),
    ("Cache: how long loaders take", "s", (
        (p99("oddswire_cache_load_duration_seconds", "cache"), "p99 {{cache}}"),
    )),
    ("Cache: memory", "bytes", (("oddswire_cache_l1_bytes", "{{instance}}"),)),
    ("Limits", "ops", (
        (rate("oddswire_ratelimit_decisions_total", "rule", "decision"),
         "{{rule}} {{decision}}"),
    )),
    ("Limits: waiting", "s", ((p99("oddswire_ratelimit_wait_seconds"), "p99"),)),
    ("Queues: messages", "short", (
        ("max by (queue, state) (oddswire_queue_depth)", "{{queue}} {{state}}"),
    )),
    ("Queues: oldest message", "s", (
        ("max by (queue) (oddswire_queue_oldest_seconds)", "{{queue}}"),
    )),
    ("Queues: outcomes", "ops", (
        (rate("oddswire_queue_messages_total", "queue", "outcome"),
         "{{queue}} {{outcome}}"),
    )),
    ("Topics: messages", "ops", (
        (rate("oddswire_pubsub_published_total", "topic"), "{{topic}} published"),
        (rate("oddswire_pubsub_delivered_total", "topic"), "{{topic}} delivered"),
    )),
    ("Topics: lag", "s", ((p99("oddswire_pubsub_lag_seconds", "topic"), "{{topic}}"),)),
    ("Topics: gaps and drops", "ops", (
        (rate("oddswire_pubsub_gaps_total", "topic", "reason"), "{{topic}} {{reason}}"),
        (rate("oddswire_pubsub_dropped_total", "topic"), "{{topic}} dropped"),
    )),
    ("Sessions", "short", (("max by (state) (oddswire_sessions)", "{{state}}"),)),
    ("Locks", "short", (
        ("oddswire_locks_held", "held {{instance}}"),
        ("oddswire_locks_waiting", "waiting {{instance}}"),
    )),
)  # fmt: skip


def rules() -> dict[str, Any]:
    """Return Prometheus' rules."""
    return {
        "groups": [
            {
                "name": JOB,
                "rules": [
                    {
                        "alert": name,
                        "expr": expression,
                        "for": duration,
                        "labels": {"severity": severity},
                        "annotations": {"summary": summary, "action": action},
                    }
                    for name, expression, duration, severity, summary, action in ALERTS
                ],
            }
        ]
    }


def dashboard() -> dict[str, Any]:
    """Return Grafana's dashboard, for the provisioning of files."""
    source = {"type": "prometheus", "uid": "${datasource}"}
    return {
        "uid": "oddswire",
        "title": "oddswire",
        "tags": ["oddswire"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {
            "list": [
                {"name": "datasource", "type": "datasource", "query": "prometheus"},
                {
                    "name": "instance",
                    "type": "query",
                    "datasource": source,
                    "query": "label_values(oddswire_build_info, instance)",
                    "includeAll": True,
                    "multi": True,
                    "allValue": ".*",
                    "current": {"text": "All", "value": "$__all"},
                    "refresh": 2,
                },
            ]
        },
        "panels": [
            {
                "id": number + 1,
                "type": "timeseries",
                "title": title,
                "datasource": source,
                "gridPos": {
                    "x": number % 3 * 8,
                    "y": number // 3 * 8,
                    "w": 8,
                    "h": 8,
                },
                "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
                "targets": [
                    {
                        "refId": chr(ord("A") + line),
                        "datasource": source,
                        "expr": of_instance(expression),
                        "legendFormat": legend,
                    }
                    for line, (expression, legend) in enumerate(lines)
                ],
            }
            for number, (title, unit, lines) in enumerate(PANELS)
        ],
    }


def of_instance(expression: str) -> str:
    """Return the expression of the instances that are chosen above the panels."""
    return re.sub(r"oddswire_\w+", r'\g<0>{instance=~"$instance"}', expression)


def files() -> dict[Path, str]:
    """Return each file that is written, and its text."""
    # JSON is YAML too, and one writer is enough.
    return {
        HERE / "prometheus" / "rules.yml": json.dumps(rules(), indent=2) + "\n",
        HERE / "grafana" / "oddswire.json": json.dumps(dashboard(), indent=2) + "\n",
    }


def main(arguments: list[str]) -> int:
    """Write the files, or compare them."""
    if "--check" in arguments:
        old = [
            path
            for path, text in files().items()
            if not path.exists() or path.read_text() != text
        ]
        for path in old:
            print(f"{path.relative_to(HERE.parent)}: run deploy/render.py")
        return 1 if old else 0
    for path, text in files().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
