"""Small traces and catalogs for the simulator's tests."""

import random
from collections.abc import Sequence

from cluster.config import EngineConfig
from cluster.domain.ids import AdapterDigest, TenantId
from cluster.placement.planning.plan import AdapterInfo
from cluster.placement.policy import ClusterPolicy
from cluster.simulation.spec import ReplicaSpec, SimulationSpec
from cluster.simulation.trace import TraceRequest

MIB = 2**20


def catalog_of(count: int, nbytes: int = 10 * MIB) -> list[AdapterInfo]:
    return [
        AdapterInfo(AdapterDigest(f"digest-{n:03}"), f"a{n}", TenantId("acme"), nbytes)
        for n in range(count)
    ]


def zipf(count: int, exponent: float = 1.0) -> list[float]:
    return [1 / (rank + 1) ** exponent for rank in range(count)]


class TraceMaker:
    """Makes requests with exponential gaps; one seed, one trace."""

    def __init__(self, seed: int = 1, *, prompt: int = 60, output: int = 30) -> None:
        self._rng = random.Random(seed)
        self._prompt = prompt
        self._output = output
        self._now = 0.0
        self.requests: list[TraceRequest] = []

    def serve(
        self,
        streams: Sequence[tuple[str, tuple[str, ...], float]],
        seconds: float,
        *,
        shared_blocks: int = 0,
    ) -> "TraceMaker":
        """Add requests of (tenant, adapters, requests per second) for so many seconds."""
        rng, until = self._rng, self._now + seconds
        rates = [rate for *_, rate in streams]
        while sum(rates) > 0:
            self._now += rng.expovariate(sum(rates))
            if self._now >= until:
                break
            (number,) = rng.choices(range(len(streams)), rates)
            tenant, adapters, _ = streams[number]
            prompt = max(1, round(rng.gauss(self._prompt, 10)))
            prefix = [1000 * number + block for block in range(min(shared_blocks, prompt // 16))]
            self.requests.append(
                TraceRequest(
                    at=self._now,
                    tenant=TenantId(tenant),
                    adapters=tuple(sorted(adapters)),
                    prompt_tokens=prompt,
                    generated_tokens=max(1, min(200, round(rng.expovariate(1 / self._output)))),
                    max_tokens=256,
                    prefix=tuple(prefix),
                )
            )
        self._now = until
        return self


def spec_of(trace: Sequence[TraceRequest], adapters: int, **changes) -> SimulationSpec:
    """Return a specification with three replicas of eight slots, unless ``changes`` says so."""
    settings = {
        "trace": trace,
        "policy": ClusterPolicy.fixed(3),
        "catalog": catalog_of(adapters),
        "shape": ReplicaSpec(slots=8, engine=EngineConfig(max_batch_size=16)),
        "replicas": 3,
    }
    return SimulationSpec(**{**settings, **changes})
