"""Health: what is wrong with a server, why it matters and how to mend it."""

from oddswire.health._health import Health
from oddswire.health.report import Check, Report, Status, Verdict
from oddswire.health.thresholds import Bound, Thresholds

__all__ = ["Bound", "Check", "Health", "Report", "Status", "Thresholds", "Verdict"]
