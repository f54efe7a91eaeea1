"""Makes the description of a seed's run from what a user asked for; picklable."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from cluster.errors import ConfigError
from cluster.placement.planning.plan import AdapterInfo
from cluster.placement.policy import AdapterRule
from cluster.simulation.report.trace_catalog import with_catalog
from cluster.simulation.spec import SimulationSpec
from cluster.simulation.trace import TraceRequest
from cluster.simulation.traces.asking import AdapterNames, OneByPopularity
from cluster.simulation.traces.imports.formats import import_trace
from cluster.simulation.traces.imports.imported import ImportMapping
from cluster.simulation.traces.popularity import zipf
from cluster.simulation.traces.trace_file import load_trace, trace_start
from cluster.simulation.traces.trace_names import named_trace

MOST_REQUESTS = 1_000_000
"""Of a trace by formula; more would fill the memory of every process before anything is seen."""
LEAD_S = 10.0
"""Seconds without a request that a recorded trace begins with, at most: a log counts from the start
of its front, which may have been days before its first line."""


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
    def start(self) -> float | None:
        """Return the wall clock at t = 0, in seconds since the epoch; None: the log has none."""
        return trace_start(self.paths)

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
    """Fills a description with a seed's trace and the catalogue of its adapters.

    A recorded trace begins at the moment of its log, one by formula at that of ``base``.
    """

    base: SimulationSpec  # its trace, catalogue and seed are replaced
    source: TraceSource
    known: Mapping[str, AdapterInfo] = field(default_factory=dict)  # by every name in traces
    rules: tuple[AdapterRule, ...] = ()  # of all policies that serve the trace

    def __call__(self, seed: int) -> SimulationSpec:
        """Return the description of a seed's run.

        Raises:
            ConfigError: as the source; or it has no request.
        """
        requests = self.source.requests(seed)
        if not requests:
            raise ConfigError(f"{self.source.words}: no request; name another trace")
        began, start_wall = 0, self.base.start_wall
        if isinstance(self.source, LogSource):
            began = math.floor(max(0.0, requests[0].at - LEAD_S))
            if (start := self.source.start) is not None:
                start_wall = start + began
        if began:
            requests = [replace(asked, at=asked.at - began) for asked in requests]
        requests, catalog = with_catalog(requests, self.known, self.rules)
        return replace(self.base, trace=requests, catalog=catalog, seed=seed, start_wall=start_wall)
