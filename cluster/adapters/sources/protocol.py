"""Declares a source of an adapter's files."""

from pathlib import Path
from typing import Protocol

from cluster.adapters.budget import ByteBudget


class AdapterSource(Protocol):
    """Brings an adapter's files into a folder."""

    async def fetch(self, into: Path, budget: ByteBudget) -> None:
        """Write PEFT's files into the empty folder ``into``, and nothing anywhere else.

        Every byte is counted by ``budget`` as it arrives and written by ``budget.write``. The
        caller limits the time, and removes ``into`` after an error or cancellation. When this
        method has ended, in whatever way, nothing writes into ``into`` any more.

        Raises:
            AdapterError: one of its subclasses for every way in which a source can be bad.
        """
        ...

    def describe(self) -> str:
        """Return its origin for display and logs, without credentials."""
        ...
