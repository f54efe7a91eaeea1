"""The folder of one recording: what was asked, of which cluster, and what came of it.

``trace*.jsonl`` are the fronts' trace logs, ``cluster.json`` is this file's ``Recording``.
"""

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from cluster.config import EngineConfig
from cluster.domain.ids import AdapterDigest, TenantId
from cluster.errors import ConfigError
from cluster.placement.cost.model import CostModel, LoadCost, StepCost
from cluster.placement.planning.plan import AdapterInfo
from cluster.placement.policy import ClusterPolicy
from cluster.simulation.spec import ReplicaSpec, SimulationSpec
from cluster.simulation.trace import TraceRequest
from cluster.simulation.traces.trace_file import load_trace, read_header

TRACE = "trace.jsonl"
Cost = TypeVar("Cost", StepCost, LoadCost)
CLUSTER = "cluster.json"


@dataclass(frozen=True)
class RecordedAdapter:
    """One adapter of the recorded cluster."""

    name: str  # as the trace has it
    digest: str
    nbytes: int  # on the device
    rank: int


@dataclass(frozen=True)
class Recording:
    """The cluster that a trace was recorded on."""

    model: str  # name of the base
    replicas: int
    slots: int
    adapter_bytes: int
    host_bytes: int
    engine: dict[str, Any]  # of ``EngineConfig``
    adapters: tuple[RecordedAdapter, ...]
    begin: float  # wall clock when the load began; what came before warmed the cluster up
    counts: tuple[tuple[float, int], ...]  # (seconds since ``begin``, ready replicas), by time
    costs: dict[str, Any] = field(default_factory=dict)
    """As ``GET /admin/v1/model`` gives them, or nothing if the cluster did not."""
    notes: tuple[str, ...] = ()  # for people

    def save(self, folder: Path) -> None:
        """Write it into the folder of its trace."""
        (folder / CLUSTER).write_text(json.dumps(asdict(self), indent=1) + "\n")


def read_recording(folder: Path) -> Recording:
    """Read what ``Recording.save`` wrote.

    Raises:
        ConfigError: the folder has no recording.
    """
    path = folder / CLUSTER
    try:
        found = json.loads(path.read_text())
        adapters = tuple(RecordedAdapter(**one) for one in found.pop("adapters"))
        counts = tuple((float(at), int(count)) for at, count in found.pop("counts"))
        notes = tuple(found.pop("notes"))
        return Recording(**found, adapters=adapters, counts=counts, notes=notes)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(
            f"{path}: not a recording ({error!r}); make one with "
            "`python -m benchmarks.placement.recording.record`"
        ) from error


def recorded_trace(folder: Path, recording: Recording) -> list[TraceRequest]:
    """Return all requests by time, which begins with the first one.

    Those that warmed the cluster up say nothing of what became of them: they bring adapters in, and
    are not compared.

    Raises:
        ConfigError: there is no trace.
    """
    files = sorted(folder.glob("trace*.jsonl*"))
    if not files:
        raise ConfigError(f"{folder}: has no trace*.jsonl; record again")
    start = min(read_header(path).start or 0.0 for path in files)
    later = recording.begin - start
    trace = sorted(load_trace(files), key=lambda request: request.at)
    zero = min(trace[0].at, later) if trace else later
    return [
        replace(
            request,
            at=request.at - zero,
            served=request.served if request.at >= later else None,
        )
        for request in trace
    ]


def recorded_spec(folder: Path, recording: Recording) -> SimulationSpec:
    """Return the recorded cluster and its load, to be simulated."""
    return SimulationSpec(
        trace=recorded_trace(folder, recording),
        policy=ClusterPolicy.fixed(recording.replicas),
        catalog=[
            AdapterInfo(AdapterDigest(one.digest), one.name, TenantId(""), one.nbytes)
            for one in recording.adapters
        ],
        shape=ReplicaSpec(
            slots=recording.slots,
            adapter_bytes=recording.adapter_bytes,
            host_bytes=recording.host_bytes,
            engine=EngineConfig.model_validate(recording.engine),
        ),
        model=cost_model(recording.costs),
        prior=CostModel(),  # as the recorded controller began
        replicas=recording.replicas,
        engine="exact",
        ranks={AdapterDigest(one.digest): one.rank for one in recording.adapters},
    )


def cost_model(found: dict[str, Any]) -> CostModel:
    """Return the model that ``GET /admin/v1/model`` described; what it lacks is as by default."""
    base, loads = CostModel(), found.get("loads", {})
    return CostModel(
        step=_filled(base.step, found.get("step")),
        host_load=_filled(base.host_load, loads.get("host")),
        disk_load=_filled(base.disk_load, loads.get("disk")),
        start_s=float(found.get("start", {}).get("seconds", base.start_s)),
    )


def _filled(base: Cost, described: dict[str, Any] | None) -> Cost:
    known = (described or {}).get("coefficients", {})
    return replace(
        base, **{key: float(known[key]["value"]) for key in asdict(base) if key in known}
    )
