"""One request from its parsed body to its deltas: decide, tokenise, submit, relay, account.

Ownership: ``RequestService.begin`` returns a ``Running`` whose ``outcome`` is recorded exactly
once, by ``finish``; the HTTP layer calls it on every path.
"""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass

from starlette.requests import ClientDisconnect

from cluster.clock import Clock
from cluster.config import FrontConfig
from cluster.domain.decision import Granularity
from cluster.domain.ids import RequestId, TenantId
from cluster.domain.request import Outcome, SamplingParams
from cluster.errors import (
    AdapterLoadFailed,
    BraidError,
    DecisionNotFound,
    ModelNotFound,
    StoreUnavailable,
)
from cluster.tenancy.limits import QuotaVerdict
from cluster.tenancy.metering import Meter
from cluster.tenancy.tenants import Tenant
from deployments.front.http.problem import outcome_of
from deployments.front.openai.answers import Choice, Echo
from deployments.front.openai.sampling import sampling_of
from deployments.front.openai.structured import GrammarChecker
from deployments.front.openai.wire import AdapterTerm, ChatBody, CompletionBody, RouteBody
from deployments.front.requests.admission import Admission
from deployments.front.requests.expected_answers import ExpectedAnswers
from deployments.front.requests.explain import decision_body, sentences_body
from deployments.front.requests.generation import Delta, Generation, SequenceSpec
from deployments.front.requests.names import ModelNames
from deployments.front.requests.replicas import ReplicaSet
from deployments.front.requests.request_end import note_end
from deployments.front.requests.rerouting import SentenceRerouting
from deployments.front.requests.spent import spent_on
from deployments.front.telemetry.metrics import FrontMetrics
from deployments.front.telemetry.request_log import current_record
from deployments.front.text.adapter_templates import AdapterTemplates, ChosenTemplate
from deployments.front.text.chat_template import TemplateOptions, options_of
from deployments.front.text.prompts import PromptReader, Prompts, check_request, check_sequences
from deployments.front.text.text_stream import TextCodec
from router_service.request_decision import RequestDecision
from router_service.routing_request import RouterRequest, RoutingRequest
from router_service.service import RoutingService

TEMPLATE_TRIES = 3


@dataclass(slots=True)
class Running:
    """A request whose sequences are being generated."""

    tenant: Tenant
    endpoint: str
    decided: RequestDecision
    asked: tuple[str, ...]  # the names that the request asked for
    prompts: int
    generations: tuple[Generation, ...]
    choices: tuple[Choice, ...]
    verdict: QuotaVerdict
    started: float  # monotonic, seconds
    echoes: tuple[Echo, ...] = ()  # what each choice begins with; empty: nothing
    explain: bool = False  # say with each choice how its mixture came about
    outcome: Outcome | None = None
    first_token_at: float | None = None  # monotonic, seconds

    @property
    def replica(self) -> str:
        """Where the first sequence runs; empty before its first delta."""
        choice = self.generations[0].choice
        return "" if choice is None else choice.replica_id


class _TemplateChanged(Exception):
    """An adapter's name was switched while a prompt was written with its former template."""


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
        prompts: PromptReader,
        grammars: GrammarChecker,
        admission: Admission,
        meter: Meter,
        metrics: FrontMetrics,
        config: FrontConfig,
        max_model_len: int,
        clock: Clock,
        new_id: Callable[[], RequestId],
        templates: AdapterTemplates | None = None,
    ) -> None:
        self._templates = templates
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
        self._prompts = prompts
        self._grammars = grammars
        self._expected = ExpectedAnswers()
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
    ) -> RequestDecision:
        """The decision for the last of a user's turns, counted and timed.

        ``prompt`` are the tokens to be prefilled, if known.
        """
        started = self.clock.monotonic()
        wish = self.names.routing_request(model, adapters)
        *earlier, text = turns
        try:
            decided = await self.routing.decide(tenant.id, wish, text, prompt, earlier)
        except ModelNotFound:
            # Another front may have added it a moment ago.
            await self._catch_up(started)
            decided = await self.routing.decide(tenant.id, wish, text, prompt, earlier)
        self._count(tenant.id, decided, started)
        current_record().decided(decided, self.clock.monotonic() - started)
        return decided

    def _count(self, tenant: TenantId, decided: RequestDecision, started: float) -> None:
        source = decided.source.value
        self.metrics.route_seconds.labels(source).observe(self.clock.monotonic() - started)
        self.metrics.decisions.labels(tenant, source).inc()

    async def route(self, tenant: Tenant, body: RouteBody) -> RequestDecision:
        """Decide only: what the same prompt's completion would be decided as."""
        template = await self._template(tenant, body)
        options = TemplateOptions(source=template.text)
        prompts = await self._prompts.of_route(tenant.id, body, self.max_model_len, options)
        return await self.decide(tenant, body.model, body.adapters, prompts.turns, prompts.ids[0])

    async def begin_chat(self, tenant: Tenant, body: ChatBody) -> Running:
        """Prepare, admit and decide a chat completion.

        Raises:
            BraidError: the request cannot be served; nothing was started.
        """
        for _ in range(TEMPLATE_TRIES):
            with contextlib.suppress(_TemplateChanged):
                return await self._begin_chat(tenant, body)
        raise AdapterLoadFailed(f"adapter {body.model}: its name is switched too often; try again")

    async def _begin_chat(self, tenant: Tenant, body: ChatBody) -> Running:
        template = await self._template(tenant, body)
        prompts = await self._prompts.of_chat(
            tenant.id,
            body.messages,
            body.routing_turns,
            self.max_model_len,
            options_of(body, template.text),
        )
        return await self._prepare(tenant, "chat", body, prompts, template)

    async def _template(self, tenant: Tenant, body: ChatBody | RouteBody) -> ChosenTemplate:
        if self._templates is None:
            return ChosenTemplate()
        wish = self.names.routing_request(body.model, body.adapters)
        return await self._templates.choose(tenant.id, wish)

    async def begin_completion(self, tenant: Tenant, body: CompletionBody) -> Running:
        """Prepare, admit and decide a completion of one or several prompts.

        Raises:
            BraidError: the request cannot be served; nothing was started.
        """
        prompts = await self._prompts.of_completion(tenant.id, body, self.max_model_len)
        running = await self._prepare(tenant, "completions", body, prompts)
        if body.echo:
            running.echoes = self._echoes(body, prompts.ids)
        return running

    def _echoes(self, body: CompletionBody, prompts: Sequence[tuple[int, ...]]) -> tuple[Echo, ...]:
        """The prompts, once per choice; what was given as text is repeated as it is."""
        texts = body.texts or [self.codec.prompt_text(ids) for ids in prompts]
        echoes = []
        for text, ids in zip(texts, prompts, strict=True):
            offsets: tuple[int, ...] = ()
            if body.logprobs is not None:
                offsets = self.codec.prompt_offsets(text, ids, is_text=bool(body.texts))
            echoes += [Echo(text, ids, offsets)] * (body.n or 1)
        return tuple(echoes)

    async def _prepare(
        self,
        tenant: Tenant,
        endpoint: str,
        body: ChatBody | CompletionBody,
        prompts: Prompts,
        template: ChosenTemplate | None = None,
    ) -> Running:
        """Everything that can refuse a request comes before its decision.

        Raises:
            _TemplateChanged: the decision's adapter is not the one that ``template`` is of.
        """
        grammar = await self._grammars.grammar_of(tenant.id, body)
        wish = self.names.routing_request(body.model, body.adapters)
        room, vocab = self.max_model_len, self.codec.vocab_size
        sampling = [
            sampling_of(body, len(ids), room, vocab, self.config, grammar) for ids in prompts.ids
        ]
        n = body.n or 1
        asked = _asked(body)
        check_sequences(len(prompts.ids), n)
        check_request(prompts.ids, sampling, n)
        verdict = await self._admission.admit(
            tenant,
            self._new_id(),
            sequences=len(prompts.ids) * n,
            prompt_tokens=sum(map(len, prompts.ids)),
            max_new_tokens=sum(one.max_tokens for one in sampling) * n,
            expected_new_tokens=self._expected.total(tenant.id, asked, sampling) * n,
        )
        try:
            decided = await self.decide(
                tenant, body.model, body.adapters, prompts.turns, prompts.ids[0]
            )
            if template is not None and not template.is_for(decided):
                raise _TemplateChanged
            specs = self._specs(tenant, body, decided, prompts.ids, sampling)
            generations = tuple(self._generation(spec, wish, prompts.turns) for spec in specs)
        except BaseException:
            self._admission.settle(verdict, tokens=0)
            raise
        self.metrics.in_flight.inc()
        return Running(
            tenant=tenant,
            endpoint=endpoint,
            decided=decided,
            asked=asked,
            prompts=len(prompts.ids),
            generations=generations,
            choices=tuple(Choice() for _ in specs),
            verdict=verdict,
            started=self.clock.monotonic(),
            explain=bool(body.explain),
        )

    def _specs(
        self,
        tenant: Tenant,
        body: ChatBody | CompletionBody,
        decided: RequestDecision,
        prompts: Sequence[tuple[int, ...]],
        sampling: Sequence[SamplingParams],
    ) -> list[SequenceSpec]:
        now = self.clock.wall()
        specs: list[SequenceSpec] = []
        for ids, shared in zip(prompts, sampling, strict=True):
            for number in range(body.n or 1):
                own = shared
                if shared.seed is not None and number:
                    own = dataclasses.replace(shared, seed=shared.seed + number)
                specs.append(
                    SequenceSpec(
                        tenant=tenant.id,
                        prompt_token_ids=ids,
                        sampling=own,
                        stop=body.stop_strings,
                        decided=decided,
                        arrived_at=now,
                        deadline_at=now + self.config.request_timeout_s,
                        skip_special_tokens=body.skip_special_tokens is not False,
                        include_stop=bool(body.include_stop_str_in_output),
                    )
                )
        return specs

    def _generation(
        self, spec: SequenceSpec, wish: RoutingRequest, turns: Sequence[str]
    ) -> Generation:
        return Generation(
            spec=spec,
            replicas=self.replicas,
            codec=self.codec,
            clock=self.clock,
            new_id=self._new_id,
            http_request=current_record().id,
            on_failover=self.metrics.failovers.inc,
            rerouting=self._rerouting(spec, wish, turns),
        )

    def _rerouting(
        self, spec: SequenceSpec, wish: RoutingRequest, turns: Sequence[str]
    ) -> SentenceRerouting | None:
        segments = self.routing.segments(wish)
        if segments is None or not isinstance(wish, RouterRequest):
            return None
        router = wish  # of this type in the functions, too
        *earlier, text = turns

        async def decide(answer: str) -> RequestDecision:
            started = self.clock.monotonic()
            decided = await self.routing.decide_sentence(spec.tenant, router, text, answer, earlier)
            self._count(spec.tenant, decided, started)
            return decided

        def keep_delay(decided: RequestDecision, delay: int) -> None:
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
                    running.first_token_at = now
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
        current_record().fail(error, outcome)

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
        spent = spent_on(running.generations, running.prompts)
        self._meter.record_parts(tenant, running.outcome, spent.parts)
        for generation in running.generations:
            if generation.ended:
                self._expected.observe(
                    tenant,
                    running.asked,
                    generation.spec.sampling,
                    generation.generated,
                )
            if generation.rerouting is not None:
                generation.rerouting.stop()
                for sentence in generation.rerouting.sentences[1:]:
                    metrics.reroutes.labels(sentence.state.value).inc()
        self._admission.settle(running.verdict, tokens=spent.tokens)
        note_end(running, error, self.clock.monotonic())


def _asked(body: ChatBody | CompletionBody) -> tuple[str, ...]:
    """Return the names that a request asks for: similar ones have answers of similar length."""
    return (body.model, *(term.name for term in body.adapters or ()))


def _outcome(error: BaseException | None) -> Outcome:
    """What a request is counted as that ended with ``error``."""
    if error is None:
        return Outcome.COMPLETED
    if isinstance(error, BraidError):
        return outcome_of(error)
    if isinstance(error, asyncio.CancelledError | GeneratorExit | ClientDisconnect):
        return Outcome.CANCELLED
    return Outcome.FAILED_ENGINE
