"""python-telegram-bot 22 on oddswire: persistence, turns of users, limits on sending.

Needs the extra ``oddswire[ptb]``.
"""

from oddswire.adapters.ptb.persistence import Persistence
from oddswire.adapters.ptb.processor import UpdateProcessor
from oddswire.adapters.ptb.rate_limiter import RateLimiter

__all__ = ["Persistence", "RateLimiter", "UpdateProcessor"]
