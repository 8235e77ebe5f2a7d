"""Two tiers, coherent across processes: values of this process, and of Redis."""

from oddswire.cache._cache import Cache
from oddswire.cache._flights import Load
from oddswire.cache.entry import Entry
from oddswire.cache.namespace import Adaptive, Namespace
from oddswire.cache.statistics import CacheStats

__all__ = ["Adaptive", "Cache", "CacheStats", "Entry", "Load", "Namespace"]
