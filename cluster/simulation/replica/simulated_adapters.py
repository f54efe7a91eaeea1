"""Adapters without tensors: the files, host copies and slots that the real manager works on.

Reading and writing take what the cost model says; nothing else is made up here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cluster.domain.adapter import AdapterEntry, AdapterKey, AdapterManifest
from cluster.domain.ids import AdapterDigest
from cluster.errors import ModelNotFound
from cluster.placement.cost.model import CostModel
from cluster.placement.planning.plan import AdapterInfo
from cluster.simulation.virtual.virtual_process import VirtualExecutor

DEFAULT_RANK = 8


class SimulatedCatalog:
    """The adapters of a simulation, as the manager reads them from the registry.

    Each has one module, named by its digest, so that its bytes follow from its modules.
    """

    def __init__(self, catalog: Sequence[AdapterInfo], ranks: Mapping[AdapterDigest, int]) -> None:
        """Take the catalog of a specification.

        Raises:
            ValueError: two adapters have the same digest.
        """
        self.infos = tuple(catalog)
        self.nbytes = {info.digest: info.nbytes for info in catalog}
        if len(self.nbytes) < len(self.infos):
            raise ValueError("catalog: two adapters have the same digest; each needs its own")
        self._entries = {
            info.digest: _entry(info, ranks.get(info.digest, DEFAULT_RANK)) for info in catalog
        }
        self._by_name = {info.alias: info.digest for info in reversed(self.infos)}
        self._by_name |= {digest: digest for digest in self.nbytes}
        self._sets: dict[tuple[str, ...], tuple[AdapterDigest, ...]] = {}

    def by_digest(self, digest: AdapterDigest) -> AdapterEntry:
        """Return the version that a digest names.

        Raises:
            ModelNotFound: there is none.
        """
        entry = self._entries.get(digest)
        if entry is None:
            raise ModelNotFound(f"the simulated catalog has no adapter {digest}")
        return entry

    def digests(self, adapters: tuple[str, ...]) -> tuple[AdapterDigest, ...]:
        """Return the set that a trace names by digests or aliases, distinct and sorted.

        Raises:
            ModelNotFound: the catalog lacks one of them.
        """
        known = self._sets.get(adapters)
        if known is None:
            missing = [name for name in adapters if name not in self._by_name]
            if missing:
                raise ModelNotFound(
                    f'the trace names adapter "{missing[0]}", which the simulated catalog lacks'
                )
            known = tuple(sorted({self._by_name[name] for name in adapters}))
            self._sets[adapters] = known
        return known


@dataclass(frozen=True, slots=True)
class SimulatedCopy:
    """An adapter in simulated host memory."""

    digest: AdapterDigest
    nbytes: int
    rank: int


class SimulatedBank:
    """A replica's device slots and its way to read adapters, with times instead of tensors."""

    def __init__(
        self, catalog: SimulatedCatalog, slots: int, model: CostModel, executor: VirtualExecutor
    ) -> None:
        self._catalog = catalog
        self._model = model
        self._executor = executor
        self._slots: list[SimulatedCopy | None] = [None] * slots

    def read(self, entry: AdapterEntry) -> SimulatedCopy:
        """Read an adapter's files: all of a load from disk but what follows in host memory."""
        digest = entry.key.digest
        nbytes = self._catalog.nbytes[digest]
        whole = self._model.disk_load.seconds(nbytes)
        self._executor.spend(max(0.0, whole - self._model.host_load.seconds(nbytes)))
        return SimulatedCopy(digest, nbytes, entry.manifest.max_rank)

    def place(self, slot: int, packed: SimulatedCopy) -> None:
        """Fill a slot from host memory."""
        self._executor.spend(self._model.host_load.seconds(packed.nbytes))
        self._slots[slot] = packed

    def clear(self, slot: int) -> None:
        """Empty a slot, which takes no time worth counting."""
        self._slots[slot] = None

    def required_nbytes(self, ranks: Mapping[str, int]) -> int:
        """Return the bytes of the adapter that has these modules."""
        return sum(self._catalog.nbytes[AdapterDigest(module)] for module in ranks)

    def nbytes(self, slot: int) -> int:
        """Return the bytes of a slot's content; 0 if it is empty."""
        return self.size(slot)[0]

    def size(self, slot: int) -> tuple[int, int]:
        """Return the bytes and the rank of a slot's content; zeros if it is empty."""
        held = self._slots[slot]
        return (0, 0) if held is None else (held.nbytes, held.rank)


def _entry(info: AdapterInfo, rank: int) -> AdapterEntry:
    manifest = AdapterManifest(
        digest=info.digest,
        rank=rank,
        alpha=float(rank),
        use_rslora=False,
        target_modules=(),
        modules=(info.digest,),
        max_rank=rank,
        nbytes=info.nbytes,
        base_model=None,
        base_digest=None,
    )
    return AdapterEntry(AdapterKey(info.owner, info.alias, info.digest), manifest, path="")
