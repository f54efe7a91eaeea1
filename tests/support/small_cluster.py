"""A front and replicas in one process, over real links and a tiny model; no Ray, no HTTP.

A tiny model's steps are quicker than the way to the front and back, so each waits until all that
follows from the one before has been done: what is decided after a token is the same every time.
"""

import asyncio
import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from cluster.adapters.catalog import AdapterCatalog
from cluster.adapters.residency.manager import AdapterManager
from cluster.adapters.validation.base_shapes import BaseShapes
from cluster.clock import SystemClock
from cluster.config import AdapterConfig, DecisionConfig, EngineConfig, FrontConfig
from cluster.domain.adapter import AdapterKey
from cluster.domain.decision import CandidateScore, Granularity
from cluster.domain.ids import ReplicaId, RequestId, TenantId
from cluster.domain.replica import ReplicaSnapshot
from cluster.domain.request import GenerationChunk
from cluster.engine.factory import build_engine
from cluster.errors import ModelNotFound, ReplicaLost
from cluster.placement.picking.cluster_view import ClusterView
from cluster.tenancy.metering import Meter
from cluster.tenancy.quota import MemoryQuota
from cluster.tenancy.tenants import Tenant
from cluster.tenancy.waiting_places import WaitingPlace, WaitingPlaces
from deployments.front.entry.heavy import HeavyWork
from deployments.front.openai.prompt_requests import completion_request
from deployments.front.openai.wire import CompletionBody
from deployments.front.requests.admission import Admission
from deployments.front.requests.names import ModelNames
from deployments.front.requests.request_service import RequestService
from deployments.front.requests.running import Running
from deployments.front.sequences.sequence_answer import Delta
from deployments.front.telemetry.metrics import FrontMetrics
from deployments.front.text.grammar_trial import GrammarTrial
from deployments.front.text.grammars import GrammarChecker
from deployments.front.text.prompts import PromptReader
from deployments.front.text.text_stream import TextCodec
from deployments.link.link_client import ReplicaLink
from deployments.link.link_messages import Reroute, StepItem, Submit, decode_to_front
from deployments.link.link_server import LinkServer
from deployments.replica.mixing import DecisionMixing
from deployments.replica.request_tracker import RequestTracker
from router_service.decision_store.codec import DecisionCodec
from router_service.decision_store.memory import MemoryDecisionStore
from router_service.reader import DecisionReader
from router_service.routers.base import Declaration, Need, RoutedMixture, RouterFailed, Stage
from router_service.routers.sentences import SentenceConfig, last_full_sentences
from router_service.service import RoutingService
from tests.support.peft_oracle import ALL_MODULES, make_adapters

KEY = b"0123456789abcdef"
ACME = Tenant(TenantId("acme"), frozenset({"*"}))
ADAPTERS = ("apples", "bells", "crabs")


def make_base(folder: Path) -> Path:
    """Make a Llama of two layers whose tokens are bytes, with adapters in ``folder``/adapters."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: index for index, token in enumerate(["<s>", "</s>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    wrapped = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>"
    )
    base = folder / "base"
    wrapped.save_pretrained(base)
    config = transformers.LlamaConfig(
        vocab_size=len(vocab),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=0,
        eos_token_id=1,
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = transformers.LlamaForCausalLM(config)
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.data.normal_(std=parameter.shape[1] ** -0.5 * 1.5)
        model.save_pretrained(base)
    options = {
        name: {"r": rank, "lora_alpha": 8, "target_modules": list(ALL_MODULES)}
        for name, rank in zip(ADAPTERS, (4, 2, 3), strict=True)
    }
    make_adapters(model, options, folder / "adapters")
    return base


class WordRouter:
    """Adapters whose names are words of the last sentence, or of the prompt, in equal parts."""

    name, version = "words", "v1"
    candidates = ("", *ADAPTERS)
    sentences = SentenceConfig(min_characters=4)
    declares = Declaration(Stage.SENTENCE, Granularity.SENTENCE, frozenset({Need.TEXT}))

    def reading(self, prompt: str, answer: str) -> str:
        return last_full_sentences(answer, 1, self.sentences) or prompt

    def route(self, text: str, allowed: frozenset[str]) -> RoutedMixture:
        if "fail" in text:
            raise RouterFailed("told to")
        kept = [alias for alias in ADAPTERS if alias in allowed and alias in text]
        weights = tuple((alias, round(1 / len(kept), 4)) for alias in kept)
        scores = tuple(CandidateScore(a, 0.0, kept=a in kept) for a in sorted(allowed))
        return RoutedMixture(weights, scores)

    def reroute(self, prompt: str, answer: str, allowed: frozenset[str]) -> RoutedMixture:
        return self.route(self.reading(prompt, answer), allowed)


class Directory:
    """Every adapter is everybody's."""

    def __init__(self, catalog: AdapterCatalog) -> None:
        self._keys = {alias: entry.key for alias, entry in catalog.entries.items()}

    def resolve(self, tenant: TenantId, alias: str) -> AdapterKey:
        if alias not in self._keys:
            raise ModelNotFound(f"no adapter {alias!r}")
        return self._keys[alias]

    def visible(self, tenant: TenantId) -> Mapping[str, AdapterKey]:
        return self._keys

    def earlier(self, *_: object) -> None:
        return None


async def _nothing(*_: object) -> None:
    """Do nothing: all is known from the start."""


class SmallReplica:
    """Engine, adapters, requests and links of one replica."""

    def __init__(self, name: str, folder: Path, store: Any, codec: DecisionCodec, **config: object):
        options = {"block_size": 4, "kv_blocks": 256, "max_model_len": 256, "max_batch_tokens": 64}
        self.id = ReplicaId(name)
        adapters = AdapterConfig(slots=4, base_check="name")
        self.built = build_engine(
            folder / "base",
            EngineConfig(**(options | config)),
            adapters,
            clock=SystemClock(),
            on_chunks=self._on_chunks,
            new_seed=lambda: 0,
            on_returned=lambda name, tokens, usage: self.book.on_returned(name, tokens, usage),
        )
        shapes = BaseShapes("base", self.built.module_shapes, "base")
        self._executor = ThreadPoolExecutor(2)
        self.adapters = AdapterManager(
            adapters,
            AdapterCatalog.scan(folder / "adapters"),
            self.built.adapters,
            lambda entry: self.built.adapters.read_adapter(
                Path(entry.path), shapes, digest=entry.key.digest
            ),
            SystemClock(),
            self._executor,
        )
        self.links = LinkServer(self, self, KEY)
        self.book = RequestTracker(
            engine=self.built.engine,
            adapters=self.adapters,
            sync_adapters=_nothing,
            sync_router=_nothing,
            reader=DecisionReader(
                store=store, codec=codec, clock=SystemClock(), config=DecisionConfig(), leeway_s=60
            ),
            mixing=DecisionMixing({}, "base", isolate_tenants=True),
            max_waiting=100,
            clock=SystemClock(),
            loop=asyncio.get_running_loop(),
            deliver=self._deliver,
        )
        self.loop = asyncio.get_running_loop()
        self.delivered = self.rerouted = 0
        self.quiet: Callable[[], Awaitable[None]] = _nothing
        self.built.engine.start()

    def _on_chunks(self, chunks: list[GenerationChunk]) -> None:
        """Hand chunks to the book in the step thread, and wait until all is quiet."""
        self.book.on_chunks(chunks)
        asyncio.run_coroutine_threadsafe(self.quiet(), self.loop).result(timeout=60)

    def _deliver(self, chunks: list[GenerationChunk]) -> None:
        owned = [chunk for chunk in chunks if chunk.request_id in self.links._owner]
        self.delivered += len(owned)
        self.links.deliver(chunks, 0, 0)

    def submit(self, message: Submit) -> None:
        self.book.submit(message)

    def reroute(self, message: Reroute) -> None:
        self.rerouted += 1
        self.book.reroute(message)

    @property
    def is_quiet(self) -> bool:
        """Nothing is on its way to the engine."""
        return all(
            live.coming is None or live.coming.task is None or live.coming.task.done()
            for live in self.book._live.values()
        )

    def cancel(self, request_id: RequestId) -> None:
        self.book.cancel(request_id)

    def disconnected(self, request_ids: frozenset[RequestId]) -> None:
        self.book.disconnected(request_ids)

    def on_host(self) -> tuple[()]:
        return ()

    def snapshot(self) -> ReplicaSnapshot:
        return ReplicaSnapshot(self.id, "", 0, 0, 1, 1, 4, 1, 0, (), draining=False)

    async def close(self) -> None:
        """Close the replica; nothing may be left behind."""
        await self.book.wait_idle(20)
        assert await asyncio.to_thread(self.built.engine.stop, drain=True, timeout_s=20)
        self.built.engine.check_integrity()
        self.book.check_integrity()
        assert self.adapters.leases == 0
        await self.links.stop(0)
        await self.adapters.close()
        self._executor.shutdown()


class CountingLink(ReplicaLink):
    """Counts what crosses."""

    received = sent = 0

    def _receive(self, data: bytes) -> None:
        super()._receive(data)
        item = decode_to_front(data)
        if isinstance(item, StepItem):
            self.received += len(item.chunks)

    async def _watch(self) -> None:
        """Watch nothing: these replicas send no heartbeats, and compile kernels for long."""

    def reroute(self, message: Reroute) -> None:
        self.sent += message.request_id in self._sinks and not self._closed
        super().reroute(message)

    @property
    def is_read(self) -> bool:
        return all(sink.empty() for sink in self._sinks.values())


class SmallCluster:
    """Requests go to the first replica that is not lost."""

    ready = True

    def __init__(self, folder: Path, codec: DecisionCodec, store: MemoryDecisionStore) -> None:
        self.replicas: list[SmallReplica] = []
        self.open: list[CountingLink] = []
        self.closing = False
        self.runnings: list[Running] = []
        self.view = ClusterView()
        self.places = WaitingPlaces(1024)
        self.store = store
        clock = SystemClock()
        catalog = AdapterCatalog.scan(folder / "adapters")
        ids = map(str, itertools.count())
        self.meter, self.metrics = Meter(), FrontMetrics()
        self.work, self.trial = HeavyWork(), GrammarTrial(folder / "base")
        text_codec = TextCodec(folder / "base")
        self.service = RequestService(
            names=ModelNames("base"),
            sync=_nothing,
            routing=RoutingService(
                routers={"words": WordRouter()},
                store=store,
                directory=Directory(catalog),
                codec=codec,
                clock=clock,
                config=DecisionConfig(),
                max_mixture=4,
            ),
            replicas=self,  # type: ignore[arg-type]
            codec=text_codec,
            prompts=PromptReader(text_codec, self.work),
            grammars=GrammarChecker(self.trial),
            admission=Admission(MemoryQuota(clock, 60)),
            meter=self.meter,
            metrics=self.metrics,
            config=FrontConfig(),
            max_model_len=256,
            clock=clock,
            new_id=lambda: RequestId(next(ids)),
        )

    def snapshots(self) -> tuple[()]:
        return ()

    async def pick(
        self, request: Any, *, wait_s: float, place: WaitingPlace
    ) -> tuple[Any, ReplicaLink]:
        for link in self.open:
            if link.open and link.replica_id not in request.exclude:
                return SimpleNamespace(
                    replica_id=link.replica_id, whole=True, predicted_ttft=0.0, explanation=None
                ), link
        raise ReplicaLost("none is left")

    async def add(self, replica: SmallReplica) -> None:
        port = await replica.links.start("127.0.0.1")
        link = CountingLink(
            replica.id,
            f"127.0.0.1:{port}",
            KEY,
            on_snapshot=lambda _: None,
            on_host=lambda *_: None,
            on_load=lambda *_: None,
            on_lost=lambda _: None,
        )
        link.start()
        replica.quiet = self.quiet
        self.replicas.append(replica)
        self.open.append(link)

    async def quiet(self) -> None:
        """Wait until nothing is left to be done between two steps."""
        await asyncio.sleep(0)
        while not (self.closing or self._is_quiet):  # noqa: ASYNC110 - many parts change it
            await asyncio.sleep(0.0005)

    @property
    def _is_quiet(self) -> bool:
        crossed = all(
            (link.received, link.sent) == (replica.delivered, replica.rerouted)
            and link.is_read
            and replica.is_quiet
            for link, replica in zip(self.open, self.replicas, strict=True)
        )
        reroutings = [c.rerouting for running in self.runnings for c in running.choices]
        routed = all(one is None or one._task is None for one in reroutings)
        return crossed and routed and not self.service.decider.keeping

    async def begin(self, prompt: str, **fields: Any) -> Running:
        body = CompletionBody(
            **{
                "model": "auto",
                "prompt": prompt,
                "max_tokens": 90,
                "temperature": 0,
                "explain": True,
                **fields,
            }
        )
        running = await self.service.begin(ACME, completion_request(body))
        self.runnings.append(running)
        return running

    async def ask(self, prompt: str, **fields: Any) -> Running:
        running = await self.begin(prompt, **fields)
        await self.collect(running)
        return running

    async def collect(self, running: Running) -> None:
        async for _ in deltas_of(running):
            pass
        self.service.finish(running, None)
        await self.service.explain(running)

    def count(self, result: str) -> float:
        value: float = self.metrics.reroutes.labels(result)._value.get()
        return value


@asynccontextmanager
async def small_cluster(
    folder: Path, replicas: int = 1, **config: object
) -> AsyncIterator[SmallCluster]:
    """Run a small cluster; ``folder`` is of `make_base`."""
    codec = DecisionCodec(KEY)
    store = MemoryDecisionStore(codec, SystemClock())
    cluster = SmallCluster(folder, codec, store)
    for number in range(replicas):
        await cluster.add(SmallReplica(f"r{number}", folder, store, codec, **config))
    try:
        yield cluster
    finally:
        cluster.closing = True
        for link in cluster.open:
            await link.close()
        for replica in cluster.replicas:
            await replica.close()
        cluster.work.close()
        cluster.trial.close()


async def deltas_of(running: Running) -> AsyncGenerator[tuple[int, Delta], None]:
    """Yield each delta with the index of its choice; closing it early cancels the choices."""
    try:
        while deltas := await running.relay.next_deltas():
            for choice, delta in deltas:
                yield choice.index, delta
    finally:
        running.relay.close()


def text_of(running: Running, index: int = 0) -> str:
    return "".join(running.answers[index].text)


def sentences_of(running: Running, index: int = 0) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = running.answers[index].explanation["explain"]["sentences"]
    return found
