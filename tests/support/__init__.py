"""What the tests of both distributions share.

`waiting` waits for a condition, `fixtures` holds the fixtures `client` and `own`,
`keys` says where data is kept, `children` starts other processes,
`hooks` is the only place that reaches into private attributes for many tests.
"""

from support.children import loaded_by
from support.waiting import eventually

__all__ = ["eventually", "loaded_by"]
