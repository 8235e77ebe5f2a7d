"""Two tiers, coherent across processes: values of this process, and of Redis."""

from oddswire.cache._cache import Cache
from oddswire.cache._hot import WarmReport
from oddswire.cache.decorator import Cached
from oddswire.cache.entry import Entry, EntryOptions, LoadContext
from oddswire.cache.namespace import Adaptive, Namespace
from oddswire.cache.statistics import CacheStats

__all__ = [
    "Adaptive",
    "Cache",
    "CacheStats",
    "Cached",
    "Entry",
    "EntryOptions",
    "LoadContext",
    "Namespace",
    "WarmReport",
]
