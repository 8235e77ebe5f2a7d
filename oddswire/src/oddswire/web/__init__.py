"""Which requests an HTTP listener of ours answers, and how much it accepts.

`oddswire.web.guard` decides, without input or output. `oddswire.web.listener` listens
with aiohttp (extra ``oddswire[web]``) and applies the decisions.
"""

from oddswire.web.guard import Guard, Refusal, client_address, limit_key

__all__ = ["Guard", "Refusal", "client_address", "limit_key"]
