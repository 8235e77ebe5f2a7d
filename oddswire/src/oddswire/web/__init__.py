"""What every listener of ours holds: whom it answers, and how much it takes.

`oddswire.web.guard` decides, without input or output; `oddswire.web.listener` listens
with aiohttp (extra ``oddswire[web]``) and keeps to it.
"""

from oddswire.web.guard import Guard, Refusal, client_address, limit_key

__all__ = ["Guard", "Refusal", "client_address", "limit_key"]
