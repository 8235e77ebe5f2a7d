"""Lua scripts: one `.lua` file each, sent by its digest, loaded again where missing."""

from oddswire.scripts._script import PackedCall, Script, load, require_one_slot

__all__ = ["PackedCall", "Script", "load", "require_one_slot"]
