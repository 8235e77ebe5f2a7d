"""oddswire behind the interfaces that others define.

`oddswire.adapters.aiogram`, `.ptb`, `.aiohttp` and `.asgi`; each but the last needs the
extra of its name (`web` for aiohttp). Nothing else of the library imports them.
"""
