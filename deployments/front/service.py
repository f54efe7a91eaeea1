"""One request from its parsed body to its deltas: decide, tokenise, submit, relay, account.

Ownership: ``RequestService.begin`` returns a ``Running`` whose ``outcome`` is recorded exactly
once, by ``finish``; the HTTP layer calls it on every path.
"""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import structlog
from starlette.requests import ClientDisconnect

from cluster.clock import Clock
from cluster.config import FrontConfig
from cluster.domain.adapter import WeightedAdapter
from cluster.domain.decision import Granularity
from cluster.domain.ids import RequestId, TenantId
from cluster.domain.request import Outcome, Usage
from cluster.errors import (
    BraidError,
    DecisionNotFound,
    ModelNotFound,
    RequestError,
    StoreUnavailable,
)
from cluster.tenancy.limits import QuotaVerdict
from cluster.tenancy.metering import Meter
from cluster.tenancy.tenants import Tenant
from deployments.front.admission import Admission
from deployments.front.answers import Choice, Echo
from deployments.front.explain import decision_body, sentences_body
from deployments.front.generation import Delta, Generation, SequenceSpec
from deployments.front.metrics import FrontMetrics
from deployments.front.names import ModelNames
from deployments.front.problem import outcome_of
from deployments.front.replicas import ReplicaSet
from deployments.front.rerouting import SentenceRerouting
from deployments.front.sampling import check_prompt, sampling_of
from deployments.front.structured import GrammarChecker
from deployments.front.text import TextCodec
from deployments.front.wire import AdapterTerm, ChatBody, CompletionBody, RouteBody
from router_service.service import Decided, RoutingService
from router_service.wish import RouterWish, RoutingWish

log = structlog.get_logger(__name__)

T = TypeVar("T")
TOKENISE_HERE = 16_384
"""Characters; tokenising them takes a few milliseconds."""


@dataclass(slots=True)
class Running:
    """A request whose sequences are being generated."""

    tenant: Tenant
    endpoint: str
    decided: Decided
    prompts: int
    generations: tuple[Generation, ...]
    choices: tuple[Choice, ...]
    verdict: QuotaVerdict
    started: float  # monotonic, seconds
    echoes: tuple[Echo, ...] = ()  # what each choice begins with; empty: nothing
    explain: bool = False  # say with each choice how its mixture came about
    outcome: Outcome | None = None

    @property
    def replica(self) -> str:
        """Where the first sequence runs; empty before its first delta."""
        choice = self.generations[0].choice
        return "" if choice is None else choice.replica_id


class RequestService:
    """Everything behind the HTTP routes that generates."""

    def __init__(
        self,
        *,
        names: ModelNames,
        catch_up: Callable[[float], Awaitable[None]],
        routing: RoutingService,
        replicas: ReplicaSet,
        codec: TextCodec,
        admission: Admission,
        meter: Meter,
        metrics: FrontMetrics,
        config: FrontConfig,
        max_model_len: int,
        clock: Clock,
        new_id: Callable[[], RequestId],
    ) -> None:
        self.names = names
        self._catch_up = catch_up
        self.routing = routing
        self.replicas = replicas
        self.codec = codec
        self._admission = admission
        self._meter = meter
        self.metrics = metrics
        self.config = config
        self._configured_max_model_len = max_model_len
        self.clock = clock
        self._new_id = new_id
        self._grammars = GrammarChecker()
        self._keeping: set[asyncio.Task[None]] = set()  # notes on their way to the store

    @property
    def max_model_len(self) -> int:
        """Longest prompt plus completion: what the replicas say, the configured one before."""
        return min(
            (snapshot.max_model_len for snapshot in self.replicas.snapshots()),
            default=self._configured_max_model_len,
        )

    async def decide(
        self,
        tenant: Tenant,
        model: str,
        adapters: Sequence[AdapterTerm] | None,
        turns: Sequence[str],
        prompt: Sequence[int] = (),
    ) -> Decided:
        """The decision for the last of a user's turns, counted and timed.

        ``prompt`` are the tokens to be prefilled, if known.
        """
        started = self.clock.monotonic()
        wish = self.names.wish(model, adapters)
        *earlier, text = turns
        try:
            decided = await self.routing.decide(tenant.id, wish, text, prompt, earlier)
        except ModelNotFound:
            # Another front may have added it a moment ago.
            await self._catch_up(started)
            decided = await self.routing.decide(tenant.id, wish, text, prompt, earlier)
        self._count(tenant.id, decided, started)
        return decided

    def _count(self, tenant: TenantId, decided: Decided, started: float) -> None:
        source = decided.source.value
        self.metrics.route_seconds.labels(source).observe(self.clock.monotonic() - started)
        self.metrics.decisions.labels(tenant, source).inc()

    async def route(self, tenant: Tenant, body: RouteBody) -> Decided:
        """Decide only: what the same prompt's completion would be decided as."""
        prompt, messages = body.prompt, body.messages
        if prompt is not None:
            tokens = await _unblocking(len(prompt), lambda: self.codec.encode(prompt))
        else:
            chat = [message.for_template() for message in messages or ()]
            size = sum(len(message["content"]) for message in chat)
            tokens = await _unblocking(size, lambda: self.codec.encode_chat(chat))
        return await self.decide(tenant, body.model, body.adapters, body.routing_turns, tokens)

    async def begin_chat(self, tenant: Tenant, body: ChatBody) -> Running:
        """Decide and prepare a chat completion.

        Raises:
            BraidError: the request cannot be served; nothing was started.
        """
        messages = [message.for_template() for message in body.messages]
        size = sum(len(message["content"]) for message in messages)
        prompt = await _unblocking(size, lambda: self.codec.encode_chat(messages))
        check_prompt(len(prompt), self.max_model_len, self.codec.vocab_size, prompt)
        grammar = await self._grammars.grammar_of(body)
        turns = body.routing_turns
        decided = await self.decide(tenant, body.model, body.adapters, turns, prompt)
        return await self._prepare(tenant, "chat", body, decided, turns, [prompt], grammar)

    async def begin_completion(self, tenant: Tenant, body: CompletionBody) -> Running:
        """Decide and prepare a completion of one or several prompts.

        Raises:
            BraidError: the request cannot be served; nothing was started.
        """
        size = sum(len(item) for item in body.texts)
        prompts = await _unblocking(size, lambda: self._prompts(body))
        for prompt in prompts:
            check_prompt(len(prompt), self.max_model_len, self.codec.vocab_size, prompt)
        grammar = await self._grammars.grammar_of(body)
        text = body.prompt if isinstance(body.prompt, str) else None
        if text is None:
            text = self.codec.backend.decode(prompts[0])
        decided = await self.decide(tenant, body.model, body.adapters, (text,), prompts[0])
        running = await self._prepare(
            tenant, "completions", body, decided, (text,), prompts, grammar
        )
        if body.echo:
            running.echoes = self._echoes(body, prompts)
        return running

    def _echoes(self, body: CompletionBody, prompts: list[list[int]]) -> tuple[Echo, ...]:
        """The prompts, once per choice; what was given as text is repeated as it is."""
        texts = body.texts or [self.codec.prompt_text(ids) for ids in prompts]
        return tuple(
            Echo(text, tuple(ids))
            for text, ids in zip(texts, prompts, strict=True)
            for _ in range(body.n or 1)
        )

    def _prompts(self, body: CompletionBody) -> list[list[int]]:
        prompt = body.prompt
        if isinstance(prompt, str):
            return [self.codec.encode(prompt)]
        if not prompt:
            raise RequestError("prompt: must not be empty", param="prompt")
        first = prompt[0]
        if isinstance(first, int):
            return [[item for item in prompt if isinstance(item, int)]]
        if len(prompt) > 1 and body.model.split(":")[0] == "auto" and body.adapters is None:
            raise RequestError(
                "prompt: a router decides for one prompt; send several prompts one by one",
                param="prompt",
            )
        return [
            self.codec.encode(item) if isinstance(item, str) else list(item)
            for item in prompt
            if not isinstance(item, int)
        ]

    async def _prepare(
        self,
        tenant: Tenant,
        endpoint: str,
        body: ChatBody | CompletionBody,
        decided: Decided,
        turns: Sequence[str],
        prompts: list[list[int]],
        grammar: str,
    ) -> Running:
        now = self.clock.wall()
        wish = self.names.wish(body.model, body.adapters)
        specs: list[SequenceSpec] = []
        for prompt in prompts:
            sampling = sampling_of(
                body, len(prompt), self.max_model_len, self.codec.vocab_size, self.config, grammar
            )
            for number in range(body.n or 1):
                own = sampling
                if sampling.seed is not None and number:
                    own = dataclasses.replace(sampling, seed=sampling.seed + number)
                specs.append(
                    SequenceSpec(
                        tenant=tenant.id,
                        prompt_token_ids=tuple(prompt),
                        sampling=own,
                        stop=body.stop_strings,
                        decided=decided,
                        arrived_at=now,
                        deadline_at=now + self.config.request_timeout_s,
                    )
                )
        most = sum(len(spec.prompt_token_ids) + spec.sampling.max_tokens for spec in specs)
        verdict = await self._admission.admit(tenant, self._new_id(), most)
        self.metrics.in_flight.inc()
        return Running(
            tenant=tenant,
            endpoint=endpoint,
            decided=decided,
            prompts=len(prompts),
            generations=tuple(self._generation(spec, wish, turns) for spec in specs),
            choices=tuple(Choice() for _ in specs),
            verdict=verdict,
            started=self.clock.monotonic(),
            explain=body.explain,
        )

    def _generation(
        self, spec: SequenceSpec, wish: RoutingWish, turns: Sequence[str]
    ) -> Generation:
        return Generation(
            spec=spec,
            replicas=self.replicas,
            codec=self.codec,
            clock=self.clock,
            new_id=self._new_id,
            on_failover=self.metrics.failovers.inc,
            rerouting=self._rerouting(spec, wish, turns),
        )

    def _rerouting(
        self, spec: SequenceSpec, wish: RoutingWish, turns: Sequence[str]
    ) -> SentenceRerouting | None:
        segments = self.routing.segments(wish)
        if segments is None or not isinstance(wish, RouterWish):
            return None
        router = wish  # of this type in the functions, too
        *earlier, text = turns

        async def decide(answer: str) -> Decided:
            started = self.clock.monotonic()
            decided = await self.routing.decide_sentence(spec.tenant, router, text, answer, earlier)
            self._count(spec.tenant, decided, started)
            return decided

        def keep_delay(decided: Decided, delay: int) -> None:
            task = asyncio.create_task(self.routing.keep_delay(decided, delay))
            self._keeping.add(task)
            task.add_done_callback(self._keeping.discard)

        return SentenceRerouting(spec.decided, segments, decide, keep_delay)

    async def deltas(self, running: Running) -> AsyncGenerator[tuple[int, Delta], None]:
        """(choice index, delta) of all sequences as they come; added to ``running.choices``.

        Raises:
            BraidError: a sequence failed; the others are cancelled.
        """
        if len(running.generations) == 1:
            source = self._single(running.generations[0])
        else:
            source = self._merged(running)
        first = True
        last: dict[int, float] = {}
        try:
            async for index, delta in source:
                now = self.clock.monotonic()
                if first and delta.token_ids:
                    self.metrics.ttft_seconds.observe(now - running.started)
                    first = False
                if index in last and delta.token_ids:
                    self.metrics.inter_token_seconds.observe(now - last[index])
                if delta.token_ids:
                    last[index] = now
                running.choices[index].add(delta)
                yield index, delta
        finally:
            await source.aclose()

    @staticmethod
    async def _single(generation: Generation) -> AsyncGenerator[tuple[int, Delta], None]:
        deltas = generation.run()
        try:
            async for delta in deltas:
                yield 0, delta
        finally:
            await deltas.aclose()

    @staticmethod
    async def _merged(running: Running) -> AsyncGenerator[tuple[int, Delta], None]:
        queue: asyncio.Queue[tuple[int, Delta | Exception | None]] = asyncio.Queue()

        async def pump(index: int, generation: Generation) -> None:
            deltas = generation.run()
            try:
                async for delta in deltas:
                    queue.put_nowait((index, delta))
                queue.put_nowait((index, None))
            except Exception as error:
                queue.put_nowait((index, error))
            finally:
                await deltas.aclose()

        tasks = [
            asyncio.create_task(pump(index, generation))
            for index, generation in enumerate(running.generations)
        ]
        remaining = len(tasks)
        try:
            while remaining:
                index, item = await queue.get()
                if item is None:
                    remaining -= 1
                elif isinstance(item, Exception):
                    raise item
                else:
                    yield index, item
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def explain(self, running: Running) -> None:
        """Give the choices what the decision says of itself, where that was asked for.

        What prefill has completed is read from the store; where it is not there, it is left out.
        """
        if not running.explain:
            return
        if not running.choices[0].decision:
            await self._explain_decision(running)
        for generation, choice in zip(running.generations, running.choices, strict=True):
            if generation.rerouting is not None:
                sentences = sentences_body(generation.rerouting.sentences)
                choice.decision = {**choice.decision, "sentences": sentences}

    async def _explain_decision(self, running: Running) -> None:
        decision = running.decided.decision
        if decision.granularity is Granularity.PROMPT and decision.site_weights is None:
            with contextlib.suppress(DecisionNotFound, StoreUnavailable):
                decision = await self.routing.get(running.tenant.id, decision.id)
        explained = decision_body(decision, running.decided.source, None, explain=True)["explain"]
        for choice in running.choices:
            choice.decision = {"router": decision.router, **explained}

    def refuse(self, tenant: TenantId | None, endpoint: str, error: BaseException) -> None:
        """Record a request that ended before it began. ``tenant`` is None where unknown."""
        outcome = _outcome(error)
        self.metrics.requests.labels(tenant or "", endpoint, outcome.value).inc()
        known = error if isinstance(error, BraidError) else None
        log.info(
            "request.refused",
            tenant=tenant,
            endpoint=endpoint,
            outcome=outcome.value,
            code=known.code if known else type(error).__name__,
            param=known.param if known else None,
        )

    def finish(self, running: Running, error: BaseException | None) -> None:
        """Record how a request ended. Only the first call counts."""
        if running.outcome is not None:
            return
        running.outcome = _outcome(error)
        tenant = running.tenant.id
        metrics = self.metrics
        metrics.in_flight.dec()
        metrics.requests.labels(tenant, running.endpoint, running.outcome.value).inc()
        metrics.request_seconds.observe(self.clock.monotonic() - running.started)
        prompt_tokens = sum(len(item.spec.prompt_token_ids) for item in running.generations)
        generated = sum(len(choice.token_ids) for choice in running.choices)
        self._meter.record_parts(tenant, running.outcome, _parts(running, prompt_tokens))
        for generation in running.generations:
            if generation.rerouting is not None:
                generation.rerouting.stop()
                for sentence in generation.rerouting.sentences[1:]:
                    metrics.reroutes.labels(sentence.state.value).inc()
        self._admission.settle(running.verdict, prompt_tokens + generated)
        log.info(
            "request.finished",
            tenant=tenant,
            endpoint=running.endpoint,
            outcome=running.outcome.value,
            decision=running.decided.decision.id,
            source=running.decided.source.value,
            replica=running.replica,
            prompt_tokens=prompt_tokens,
            completion_tokens=generated,
        )


def _parts(running: Running, prompt_tokens: int) -> list[tuple[Usage, tuple[WeightedAdapter, ...]]]:
    """The tokens of a request by the mixture that they were computed with."""
    first = running.decided.decision.mixture
    parts = [(Usage(prompt_tokens, 0), first)]
    for generation, choice in zip(running.generations, running.choices, strict=True):
        tokens = len(choice.token_ids)
        shares = [(tokens, first)]
        if generation.rerouting is not None:
            shares = generation.rerouting.shares(tokens)
        parts += [(Usage(0, count), mixture) for count, mixture in shares]
    return parts


def _outcome(error: BaseException | None) -> Outcome:
    """What a request is counted as that ended with ``error``."""
    if error is None:
        return Outcome.COMPLETED
    if isinstance(error, BraidError):
        return outcome_of(error)
    if isinstance(error, asyncio.CancelledError | GeneratorExit | ClientDisconnect):
        return Outcome.CANCELLED
    return Outcome.FAILED_ENGINE


async def _unblocking(characters: int, encode: Callable[[], T]) -> T:
    """Tokenise short texts here and long ones in a thread: megabytes take seconds."""
    if characters <= TOKENISE_HERE:
        return encode()
    return await asyncio.to_thread(encode)
