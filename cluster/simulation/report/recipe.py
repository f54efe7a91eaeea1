"""Makes the description of a seed's run from what a user asked for; picklable."""

import hashlib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from cluster.domain.ids import AdapterDigest, TenantId
from cluster.errors import ConfigError
from cluster.placement.planning.plan import AdapterInfo
from cluster.simulation.spec import SimulationSpec
from cluster.simulation.trace import TraceRequest
from cluster.simulation.traces.asking import AdapterNames, OneByPopularity
from cluster.simulation.traces.imports.formats import import_trace
from cluster.simulation.traces.imports.imported import ImportMapping
from cluster.simulation.traces.popularity import zipf
from cluster.simulation.traces.trace_file import load_trace
from cluster.simulation.traces.trace_names import named_trace

MOST_REQUESTS = 1_000_000
"""Of a trace by formula; more would fill the memory of every process before anything is seen."""
ADAPTER_BYTES = 10_000_000
"""Of an adapter that no cluster has told the size of: rank 8 to 16 of a small model."""


class TraceSource(Protocol):
    """Gives the requests of a seed."""

    def requests(self, seed: int) -> Sequence[TraceRequest]:
        """Return the requests by time.

        Raises:
            ConfigError: there is no such trace, or its file is wrong.
        """
        ...

    @property
    def words(self) -> str:
        """Return the trace's name and its parameters, for people."""
        ...


@dataclass(frozen=True)
class NamedSource:
    """A trace by formula."""

    text: str  # NAME[,key=value...]

    def requests(self, seed: int) -> Sequence[TraceRequest]:
        found = list(itertools.islice(named_trace(self.text, seed), MOST_REQUESTS + 1))
        if len(found) > MOST_REQUESTS:
            raise ConfigError(
                f'trace "{self.text}": more than {MOST_REQUESTS:,} requests; '
                "give a shorter duration or a lower rate"
            )
        return found

    @property
    def words(self) -> str:
        return self.text


@dataclass(frozen=True)
class LogSource:
    """Recorded requests; the same for all seeds."""

    paths: tuple[Path, ...]

    def requests(self, seed: int) -> Sequence[TraceRequest]:
        del seed
        return load_trace(self.paths)

    @property
    def words(self) -> str:
        return "recorded: " + ", ".join(path.name for path in self.paths)


@dataclass(frozen=True)
class ImportSource:
    """A published trace. It knows no adapters, so the seed adds them by Zipf's popularity."""

    form: str  # azure, burstgpt, mooncake
    path: Path
    most_tokens: int  # prompt and answer; longer requests are left out
    adapters: int = 40
    tenants: int = 8

    def requests(self, seed: int) -> Sequence[TraceRequest]:
        asking = OneByPopularity(zipf(self.adapters, 1.0), AdapterNames(self.tenants))
        mapping = ImportMapping(asking, seed, most_tokens=self.most_tokens)
        return import_trace(self.path, self.form, mapping).requests

    @property
    def words(self) -> str:
        return (
            f"{self.form}: {self.path.name}, with {self.adapters} adapters of {self.tenants} "
            f"tenants by Zipf's popularity; requests above {self.most_tokens} tokens left out"
        )


@dataclass(frozen=True)
class RunRecipe:
    """Fills a description with a seed's trace and the catalogue of its adapters."""

    base: SimulationSpec  # its trace, catalogue and seed are replaced
    source: TraceSource
    known: Mapping[str, AdapterInfo] = field(default_factory=dict)  # by every name in traces

    def __call__(self, seed: int) -> SimulationSpec:
        """Return the description of a seed's run.

        Raises:
            ConfigError: as the source; or it has no request.
        """
        requests = [by_digest(asked, self.known) for asked in self.source.requests(seed)]
        if not requests:
            raise ConfigError(f"{self.source.words}: no request; name another trace")
        catalog = catalog_of(requests, self.known)
        return replace(self.base, trace=requests, catalog=catalog, seed=seed)


def by_digest(asked: TraceRequest, known: Mapping[str, AdapterInfo]) -> TraceRequest:
    """Return a request that names known adapters by their digests, as fronts' logs do not."""
    if known.keys().isdisjoint(asked.adapters):
        return asked
    digests = {known[name].digest if name in known else name for name in asked.adapters}
    return replace(asked, adapters=tuple(sorted(digests)))


def catalog_of(
    requests: Iterable[TraceRequest], known: Mapping[str, AdapterInfo]
) -> list[AdapterInfo]:
    """Return the adapters that a trace asks for, by name.

    One that is not known has the median size of those that are, and belongs to the tenant that asks
    for it first.
    """
    sizes = sorted(info.nbytes for info in known.values())
    usual = sizes[len(sizes) // 2] if sizes else ADAPTER_BYTES
    found: dict[str, AdapterInfo] = {}
    for request in requests:
        for name in request.adapters:
            if name not in found:
                found[name] = known.get(name) or _unknown(name, request.tenant, usual)
    return [found[name] for name in sorted(found)]


def _unknown(name: str, owner: TenantId, nbytes: int) -> AdapterInfo:
    digest = AdapterDigest(hashlib.sha256(name.encode()).hexdigest())
    return AdapterInfo(digest, name, owner, nbytes)
