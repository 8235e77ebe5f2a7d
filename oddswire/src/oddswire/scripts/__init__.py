"""Lua scripts: one `.lua` file each, sent by its digest, loaded again where missing."""

from oddswire.scripts._script import Script, load

__all__ = ["Script", "load"]
