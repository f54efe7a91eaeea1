"""A replica's requests without a model: real adapters' manager, scheduler and step loop."""

import asyncio
import itertools
import threading
from collections.abc import Callable, Mapping
from types import SimpleNamespace

from cluster.adapters.catalog import AdapterCatalog
from cluster.adapters.residency.manager import AdapterManager
from cluster.config import AdapterConfig, EngineConfig
from cluster.domain.adapter import (
    SHARED_OWNER,
    AdapterEntry,
    AdapterKey,
    AdapterManifest,
)
from cluster.domain.ids import AdapterDigest, RequestId, TenantId
from cluster.domain.request import GenerationChunk, GenerationRequest, SamplingParams
from cluster.engine.engine import TorchEngine
from cluster.engine.scheduling.block_pool import BlockPool
from cluster.engine.scheduling.scheduler import Scheduler
from cluster.engine.steps import StepOutput, StepPlan
from deployments.link.link_messages import Reroute, Submit
from deployments.replica.mixing import DecisionMixing
from deployments.replica.request_tracker import RequestTracker
from router_service.decision_store.decision_store import Origin, StoredDecision
from tests.support.decisions import decision_over
from tests.support.fake_runner import FakeRunner
from tests.support.manual_clock import ManualClock

NAMES = "abcdefgh"
INVOCATIONS = {"v": (2, 3), "w": (9,)}
"""Of activated LoRAs: the prompt invokes "v" from its second token on, and "w" not at all."""


def entry(name: str) -> AdapterEntry:
    manifest = AdapterManifest(
        digest=AdapterDigest(name),
        rank=8,
        alpha=16.0,
        use_rslora=False,
        target_modules=("q_proj",),
        modules=("m.q_proj",),
        max_rank=8,
        nbytes=7,
        base_model=None,
        base_digest=None,
        invocation_tokens=INVOCATIONS.get(name, ()),
    )
    return AdapterEntry(AdapterKey(SHARED_OWNER, name, AdapterDigest(name)), manifest, f"/{name}")


async def nothing_to_sync(digests: tuple[str, ...]) -> None:
    """Do nothing: every generation of these tests is known from the start."""


class Bank:
    """Room for names."""

    def __init__(self):
        self.names = {}

    def place(self, slot, packed):
        self.names[slot] = packed.name

    def clear(self, slot):
        del self.names[slot]

    def required_nbytes(self, ranks):
        return 10

    def nbytes(self, slot):
        return 10


class Reader:
    """``signed_decision`` is "tenant:adapters"."""

    async def read(self, carried: bytes) -> StoredDecision:
        tenant, adapters = carried.decode().split(":")
        decision = decision_over(adapters, tenant=TenantId(tenant))
        return StoredDecision(decision, carried, Origin.LOCAL)


class WatchedRunner(FakeRunner):
    """Remembers the adapters that each token was computed with, by name, each time it was."""

    def __init__(self, bank: Bank) -> None:
        super().__init__()
        self.bank = bank
        self.computed: dict[str, list[tuple[int, str]]] = {}  # (token, adapters)

    def execute(self, plan: StepPlan, seeds: Mapping[RequestId, int]) -> StepOutput:
        for item in plan.scheduled:
            told = self.computed.setdefault(item.sequence.request_id, [])
            for position in range(item.start, item.end):
                adapters = item.sequence.adapters_at(position)
                told.append((position, "".join(self.bank.names[slot] for slot, _ in adapters)))
        return super().execute(plan, seeds)


class Rig:
    def __init__(
        self,
        executor,
        *,
        slots=2,
        max_overtakes=2,
        max_waiting=100,
        batch=1,
        timeout=20.0,
        kv_blocks=64,
        prefix_cache=True,
        max_queued=1024,
        on_change=None,
    ) -> None:
        self.clock = ManualClock()
        config = EngineConfig(
            kv_blocks=kv_blocks,
            block_size=4,
            max_batch_size=batch,
            max_batch_tokens=16,
            max_model_len=32,
            prefix_cache=prefix_cache,
            max_queued=max_queued,
        )
        self.pool = BlockPool(config.usual_kv_blocks, config.block_size)
        self.bank = Bank()
        self.runner = WatchedRunner(self.bank)
        self.runner.gate = threading.Semaphore(0)
        self.chunks: dict[str, list[GenerationChunk]] = {}
        self.delivered = 0
        self.held: set[str] = set()
        self.may_load = threading.Event()
        self.engine = TorchEngine(
            scheduler=Scheduler(config, self.pool, self.clock),
            pool=self.pool,
            runner=self.runner,
            max_model_len=config.max_model_len,
            eos_token_ids=frozenset(),
            clock=self.clock,
            on_chunks=lambda chunks: self.book.on_chunks(chunks),
            new_seed=lambda: 0,
            on_returned=lambda name, tokens, usage: self.book.on_returned(name, tokens, usage),
        )
        self.manager = AdapterManager(
            AdapterConfig(slots=slots, memory_bytes=1000, load_timeout_s=timeout),
            AdapterCatalog(entry(name) for name in (*NAMES, *INVOCATIONS)),
            self.bank,
            self.load,
            self.clock,
            executor,
            on_change=on_change,
            on_close_to_new=lambda digests: self.book.yield_leases(digests),
            max_overtakes=max_overtakes,
        )
        self.book = RequestTracker(
            engine=self.engine,
            adapters=self.manager,
            sync_adapters=nothing_to_sync,
            sync_router=nothing_to_sync,
            reader=Reader(),
            mixing=DecisionMixing({}, "base", isolate_tenants=True),
            max_waiting=max_waiting,
            clock=self.clock,
            loop=asyncio.get_running_loop(),
            deliver=self.deliver,
        )
        self.names = map(str, itertools.count())
        self.engine.start()

    def load(self, adapter):
        if adapter.key.digest in self.held:
            assert self.may_load.wait(30)
        return SimpleNamespace(name=adapter.key.digest, nbytes=10)

    def deliver(self, chunks: list[GenerationChunk]) -> None:
        self.delivered += len(chunks)
        for chunk in chunks:
            got = self.chunks.setdefault(chunk.request_id, [])
            assert not got or got[-1].finish_reason is None, "a chunk after the last one"
            got.append(chunk)

    def submit(
        self,
        adapters="",
        tenant="t",
        max_tokens=4,
        deadline_in=None,
        resumed=(),
        spans=(),
        weight=1.0,
        prompt=(1, 2, 3),
    ) -> str:
        name = next(self.names)
        self.book.submit(
            Submit(
                GenerationRequest(
                    RequestId(name),
                    TenantId(tenant),
                    tuple(prompt),
                    SamplingParams(max_tokens=max_tokens, temperature=0.0),
                    resumed_token_ids=tuple(resumed),
                    weight=weight,
                ),
                f"{tenant}:{adapters}".encode(),
                spans=tuple(spans),
                time_left_s=deadline_in,
            )
        )
        return name

    def reroute(self, name: str, adapters: str, after: int = 0, tenant: str = "t") -> None:
        signed = f"{tenant}:{adapters}".encode()
        self.book.reroute(Reroute(RequestId(name), signed, after))

    def tokens(self, name: str) -> int:
        return sum(len(chunk.token_ids) for chunk in self.chunks.get(name, ()))

    def starts(self, name: str) -> list[int]:
        """Return where spans began, as the chunks tell."""
        told = [chunk.span_start for chunk in self.chunks.get(name, ())]
        return [start for start in told if start is not None]

    def refusals(self, name: str) -> list[str]:
        return [c.reroute_error for c in self.chunks.get(name, ()) if c.reroute_error is not None]

    def compute(self, steps: int) -> None:
        """Compute the first steps and begin the next one, before this loop hears of any of them."""
        for _ in range(steps):
            self.runner.gate.release()
        for _ in range(steps + 1):
            assert self.runner.entered.acquire(timeout=20)

    async def step(self, name: str, tokens: int) -> None:
        """Steps until a request has so many tokens, one by one."""
        await self.until(lambda: self.book._live[RequestId(name)].in_engine)
        while self.tokens(name) < tokens:
            seen = self.delivered
            self.runner.gate.release()
            await self.until(lambda seen=seen: self.delivered > seen)

    def end_of(self, name: str) -> GenerationChunk | None:
        got = self.chunks.get(name)
        return got[-1] if got and got[-1].finish_reason else None

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(20):
            while not condition():  # noqa: ASYNC110 - the engine's thread changes what it reads
                await asyncio.sleep(0.001)

    async def end(self, name: str) -> GenerationChunk:
        await self.until(lambda: self.end_of(name))
        return self.end_of(name)

    def in_engine(self) -> int:
        stats = self.engine.stats()
        return stats.running + stats.waiting
