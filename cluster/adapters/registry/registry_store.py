"""What the registry needs from where it is kept: versioned fields, changed all or none."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

Fields = Mapping[str, bytes | None]
"""Field -> its bytes; None is a field that is not there."""


@dataclass(frozen=True, slots=True)
class Version:
    """One state of the registry. ``epoch`` changes when all was lost and begun anew."""

    epoch: str = ""
    number: int = 0


@dataclass(frozen=True, slots=True)
class Changes:
    """What differs between a version and the present one."""

    version: Version
    full: bool  # ``fields`` is everything there is
    fields: Fields  # None: removed


class RegistryStore(Protocol):
    """Implemented in memory and on Redis.

    Every method raises ``StoreUnavailable`` where the store cannot be reached.
    """

    async def version(self) -> Version:
        """The present version; cheap."""
        ...

    async def changes(self, since: Version) -> Changes:
        """All that changed after ``since``, as it is now; everything for an unknown version."""
        ...

    async def commit(self, expect: Fields, write: Fields) -> Version | None:
        """Write all of ``write`` as one new version if every field of ``expect`` is as it says.

        None, and nothing written, where one is not.
        """
        ...

    async def wait(self, timeout_s: float) -> None:
        """Return soon after somebody has committed, and after ``timeout_s`` in any case."""
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...
