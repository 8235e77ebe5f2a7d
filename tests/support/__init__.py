"""What the tests of both distributions share.

`waiting` waits for a condition, `fixtures` holds the fixtures `client` and `own`,
`keys` says where data is kept,
`hooks` is the only place that reaches into private attributes for many tests.
"""

from support.waiting import eventually

__all__ = ["eventually"]
