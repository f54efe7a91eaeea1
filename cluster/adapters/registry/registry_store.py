"""Declares the registry's store: fields under one revision number, changed all or none."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

Fields = Mapping[str, bytes | None]
"""Field -> its bytes; None for a field that does not exist."""


@dataclass(frozen=True, slots=True)
class Revision:
    """One state of the registry. ``epoch`` changes when all data was lost."""

    epoch: str = ""
    number: int = 0


@dataclass(frozen=True, slots=True)
class Changes:
    """The difference between a revision and the present one."""

    revision: Revision
    full: bool  # ``fields`` is the whole registry
    fields: Fields  # None: removed


class RegistryStore(Protocol):
    """Stores the registry's fields; implemented in memory and on Redis.

    Every method raises ``StoreUnavailable`` if the store cannot be reached.
    """

    async def revision(self) -> Revision:
        """Return the present revision; cheap."""
        ...

    async def changes(self, since: Revision) -> Changes:
        """Return the changes after ``since``, or everything for an unknown revision."""
        ...

    async def commit(self, expect: Fields, write: Fields) -> Revision | None:
        """Write all of ``write`` as one new revision if every field of ``expect`` is as it says.

        Returns None, and writes nothing, if a field is not.
        """
        ...

    async def wait(self, timeout_s: float) -> None:
        """Return soon after a commit, and after ``timeout_s`` in any case."""
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...
