"""The audit of the cache."""
