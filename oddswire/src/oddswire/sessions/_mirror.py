"""`Mirror`: the indexes in this process's memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from oddswire.sessions._form import Form
    from oddswire.sessions._ledger import Ledger
    from oddswire.sessions._scripts import Tag
    from oddswire.sessions._store import Store
    from oddswire.sessions.feed import Announced


class Mirror:
    """Names by index entry, built from the server and kept by the changes since.

    Attributes:
        whole: Whether it has everything up to the last change that was heard.
        rebuilt: How often it was built.
    """

    def __init__(self) -> None:
        self.whole = False
        self.rebuilt = 0
        self._names: dict[Tag, set[str]] = {}
        self._off: set[str] = set()

    def names(self, tag: Tag) -> list[str]:
        """Return the names of active users with an index entry."""
        off = self._off
        return [name for name in self._names.get(tag, ()) if name not in off]

    def clear(self) -> None:
        """Forget everything."""
        self.whole = False
        self._names = {}
        self._off = set()

    def apply(self, change: Announced) -> None:
        """Make a change; one that is in already changes nothing."""
        for tag in change.joins:
            self._names.setdefault(tag, set()).add(change.name)
        for tag in change.leaves:
            names = self._names.get(tag)
            if names is not None:
                names.discard(change.name)
                if not names:
                    del self._names[tag]
        if change.on:
            self._off.discard(change.name)
        else:
            self._off.add(change.name)

    async def build(
        self, store: Store, form: Form[Any], ledger: Ledger | None = None
    ) -> None:
        """Read every session's index entries, without opening one.

        What changes meanwhile is read before or after; applying the changes since the
        beginning makes it right, so it is not `whole` before that.
        """
        self.clear()
        self.rebuilt += 1
        async for page in store.everybody():
            for name, fields in await store.entries([name for name, _ in page]):
                # Also where it is damaged: one session must not keep all the others
                # from being found.
                for tag in form.place(fields)[0]:
                    self._names.setdefault(tag, set()).add(name)
        if ledger is not None:
            async for known in ledger.everybody():
                for name, _, away in known:
                    for tag in away or ():
                        self._names.setdefault(tag, set()).add(name)
        self._off = await store.switched_off()
