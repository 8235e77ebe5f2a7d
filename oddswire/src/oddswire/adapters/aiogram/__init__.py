"""aiogram 3 on oddswire: storage, isolation, limits in and out, each update once.

Needs the extra ``oddswire[aiogram]``.
"""

from oddswire.adapters.aiogram.isolation import EventIsolation
from oddswire.adapters.aiogram.once import Once
from oddswire.adapters.aiogram.order import before_turns
from oddswire.adapters.aiogram.outgoing import Outgoing
from oddswire.adapters.aiogram.storage import Storage
from oddswire.adapters.aiogram.throttle import Throttle

__all__ = ["EventIsolation", "Once", "Outgoing", "Storage", "Throttle", "before_turns"]
