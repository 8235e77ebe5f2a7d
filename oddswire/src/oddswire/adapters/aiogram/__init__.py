"""aiogram 3 on oddswire: storage, isolation, limits in and out, each update once.

Needs the extra ``oddswire[aiogram]``.
"""

from oddswire.adapters._send_limiter import SendOptions
from oddswire.adapters._update_locks import UpdateLockOptions
from oddswire.adapters.aiogram.deduplicate import Deduplicate
from oddswire.adapters.aiogram.isolation import EventIsolation
from oddswire.adapters.aiogram.order import before_isolation
from oddswire.adapters.aiogram.send_limits import SendLimits
from oddswire.adapters.aiogram.storage import Storage
from oddswire.adapters.aiogram.throttle import Throttle

__all__ = [
    "Deduplicate",
    "EventIsolation",
    "SendLimits",
    "SendOptions",
    "Storage",
    "Throttle",
    "UpdateLockOptions",
    "before_isolation",
]
