"""Declares the store behind the registry: fields under one revision number, changed all or none."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

Fields = Mapping[str, bytes | None]
"""Field -> its bytes; None is a field that is not there."""


@dataclass(frozen=True, slots=True)
class Revision:
    """One state of the registry. ``epoch`` changes when all was lost and begun anew."""

    epoch: str = ""
    number: int = 0


@dataclass(frozen=True, slots=True)
class Changes:
    """What differs between a revision and the present one."""

    revision: Revision
    full: bool  # ``fields`` is everything there is
    fields: Fields  # None: removed


class RegistryStore(Protocol):
    """Implemented in memory and on Redis.

    Every method raises ``StoreUnavailable`` where the store cannot be reached.
    """

    async def revision(self) -> Revision:
        """The present revision; cheap."""
        ...

    async def changes(self, since: Revision) -> Changes:
        """All that changed after ``since``, as it is now; everything for an unknown revision."""
        ...

    async def commit(self, expect: Fields, write: Fields) -> Revision | None:
        """Write all of ``write`` as one new revision if every field of ``expect`` is as it says.

        None, and nothing written, where one is not.
        """
        ...

    async def wait(self, timeout_s: float) -> None:
        """Return soon after somebody has committed, and after ``timeout_s`` in any case."""
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...
