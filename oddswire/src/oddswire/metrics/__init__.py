"""What a process counted, as one typed value that is read without input or output.

`Metrics.snapshot()` is built from the `stats()` of the parts. Each exporter is a module
of its own with an extra of its own, and is imported by who asks for it alone.
"""

from oddswire.metrics.families import FAMILIES, Family
from oddswire.metrics.journal import Incident, Journal, JournalEntry
from oddswire.metrics.metrics import Metrics
from oddswire.metrics.snapshot import QueueActivity, Sample, Snapshot

__all__ = [
    "FAMILIES",
    "Family",
    "Incident",
    "Journal",
    "JournalEntry",
    "Metrics",
    "QueueActivity",
    "Sample",
    "Snapshot",
]
