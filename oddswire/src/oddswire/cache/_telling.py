"""Scripts that say what they wrote, for where the server may not say it itself."""

from __future__ import annotations

import functools

from oddswire.scripts import Script

# They write leases alone, and who waits for one looks again by itself.
_SILENT = {"cache_look", "cache_renew", "cache_release"}

_TOLD = """local reply = (function()
{source}
end)()
-- {{nonce, 0}}: it was there, and nothing was written.
if type(reply) ~= 'table' or reply[2] ~= 0 then
  redis.call('PUBLISH', ARGV[#ARGV - 1], ARGV[#ARGV])
end
return reply
"""


@functools.cache
def told(script: Script) -> Script | None:
    """Return a script that also publishes its last argument; None: no need to.

    The two last arguments are the channel and the message. Writing and publishing are
    one, so nobody reads the new value and misses the message that it is new.
    """
    if script.name in _SILENT:
        return None
    return Script(f"{script.name}, told", _TOLD.format(source=script.source))
