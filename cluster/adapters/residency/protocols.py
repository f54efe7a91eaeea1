"""What the adapter manager needs from the parts that hold tensors."""

from collections.abc import Mapping
from typing import Any, Protocol

from cluster.domain.adapter import AdapterEntry
from cluster.domain.ids import AdapterDigest


class VersionSource(Protocol):
    """Where the manager learns what a version is; an ``AdapterCatalog`` is one."""

    def by_digest(self, digest: AdapterDigest) -> AdapterEntry:
        """What a digest names.

        Raises:
            ModelNotFound: it is not known here.
            AdapterError: its files cannot be had.
        """
        ...


class AdapterBankProtocol(Protocol):
    """The device tensors behind the slots. Called from executor threads, one call per slot."""

    def place(self, slot: int, packed: Any) -> None:
        """Fill a slot with what the loader returned."""
        ...

    def clear(self, slot: int) -> None:
        """Empty a slot."""
        ...

    def required_nbytes(self, ranks: Mapping[str, int]) -> int:
        """Device bytes that an adapter with these ranks (module path -> rank) will take.

        Raises:
            ValueError: the base has no such module.
        """
        ...

    def nbytes(self, slot: int) -> int:
        """Device bytes that a slot's content takes."""
        ...


class HostAdapterProtocol(Protocol):
    """What the loader returns: an adapter in the bank's own form, in host memory."""

    @property
    def nbytes(self) -> int:
        """Bytes in host memory, those that ``required_nbytes`` has told."""
        ...
