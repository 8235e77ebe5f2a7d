"""Health: what is right, what is not, why it matters and what to type."""

from oddswire.health._health import Health
from oddswire.health.report import Check, Report, Status, Verdict
from oddswire.health.thresholds import Bound, Thresholds

__all__ = ["Bound", "Check", "Health", "Report", "Status", "Thresholds", "Verdict"]
