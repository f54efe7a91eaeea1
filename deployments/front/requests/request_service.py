"""Serves requests from the neutral form to their last token, whatever API they came through.

Ownership: ``RequestService.begin`` returns a ``Running`` that ``finish`` ends exactly once; the
HTTP layer calls it on every path.
"""

from collections.abc import Awaitable, Callable, Sequence

from cluster.clock import Clock
from cluster.config import FrontConfig
from cluster.domain.ids import RequestId, TenantId
from cluster.domain.request import SamplingParams
from cluster.errors import AdapterLoadFailed
from cluster.tenancy.limits import QuotaVerdict
from cluster.tenancy.metering import Meter
from cluster.tenancy.shares import (
    PromisedItl,
    TenantWeight,
    equal_weight,
    nothing_promised,
)
from cluster.tenancy.tenants import Tenant
from cluster.waiting.holding import WaitForReplica, at_once
from deployments.front.replicas.replica_set import ReplicaSet
from deployments.front.requests.admission import Admission
from deployments.front.requests.choice_builder import ChoiceBuilder
from deployments.front.requests.decider import Decider
from deployments.front.requests.echoes import echoes_of
from deployments.front.requests.expected_answers import ExpectedAnswers
from deployments.front.requests.explain import explain_answers
from deployments.front.requests.front_demand import FrontDemand
from deployments.front.requests.names import ModelNames
from deployments.front.requests.prompt_request import Endpoint, PromptRequest
from deployments.front.requests.request_end import note_end, outcome_of_end
from deployments.front.requests.running import Running
from deployments.front.requests.sampling import sampling_for
from deployments.front.requests.trace_notes import TraceNotes
from deployments.front.sequences.choice import Choice
from deployments.front.sequences.relay import Relay
from deployments.front.sequences.sequence_answer import Echo
from deployments.front.sequences.sequence_spec import ChoiceServices
from deployments.front.sequences.spent import spent_on
from deployments.front.sequences.token_times import TokenTimes
from deployments.front.telemetry.metrics import FrontMetrics
from deployments.front.telemetry.request_log import current_record
from deployments.front.text.adapter_templates import AdapterTemplates, ChosenTemplate
from deployments.front.text.grammars import GrammarChecker
from deployments.front.text.prompt_checks import (
    check_memory,
    check_routed_prompts,
    check_sequences,
)
from deployments.front.text.prompt_types import Conversation, Prompts
from deployments.front.text.prompts import PromptReader
from deployments.front.text.text_stream import TextCodec
from router_service.request_decision import RequestDecision
from router_service.routing_request import RouterRequest, RoutingRequest
from router_service.service import RoutingService

TEMPLATE_TRIES = 3


class _TemplateChanged(Exception):
    """Says that an adapter's alias was switched after its template had been used."""


class RequestService:
    """Serves everything that generates, behind the HTTP routes."""

    def __init__(
        self,
        *,
        names: ModelNames,
        sync: Callable[[float], Awaitable[None]],
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
        traces: TraceNotes | None = None,
        wait_for_replica: WaitForReplica = at_once,
        demand: FrontDemand | None = None,
        weight: TenantWeight = equal_weight,
        promised_itl: PromisedItl = nothing_promised,
    ) -> None:
        self.names = names
        self.routing = routing
        self.replicas = replicas
        self.codec = codec
        self.metrics = metrics
        self.config = config
        self.clock = clock
        self.demand = demand or FrontDemand(clock)
        self.decider = Decider(routing, sync, metrics, clock)
        self._templates = templates
        self._prompts = prompts
        self._grammars = grammars
        self._admission = admission
        self._meter = meter
        self._configured_max_model_len = max_model_len
        self._new_id = new_id
        self._expected = ExpectedAnswers()
        self._traces = traces or TraceNotes()
        services = ChoiceServices(
            replicas,
            codec,
            clock,
            new_id,
            metrics.failovers.inc,
            wait_for_replica,
            self.demand.note_pick,
            weight,
            promised_itl,
        )
        self._choices = ChoiceBuilder(
            services, self.decider, self._expected, config.request_timeout_s
        )

    @property
    def max_model_len(self) -> int:
        """Return the longest prompt plus completion: as replicas say, or as configured."""
        said = (snapshot.max_model_len for snapshot in self.replicas.snapshots())
        return min(said, default=self._configured_max_model_len)

    async def route(self, tenant: Tenant, request: PromptRequest) -> RequestDecision:
        """Decide only: as the same prompt's completion would be decided.

        Raises:
            BraidError: the request cannot be decided.
        """
        routing = self.names.routing_request(request.model, request.adapters)
        template = await self._template(tenant, routing, request)
        prompts = await self._prompts.read_to_route(
            tenant.id, request.prompt, self.max_model_len, template.text
        )
        return await self.decider.decide(tenant.id, routing, prompts)

    async def begin(self, tenant: Tenant, request: PromptRequest) -> Running:
        """Prepare, admit and decide a request; its tokens come through ``Running.relay``.

        Raises:
            BraidError: the request cannot be served; nothing was started.
        """
        for _ in range(TEMPLATE_TRIES):
            try:
                return await self._begin(tenant, request)
            except _TemplateChanged:
                continue
        raise AdapterLoadFailed(
            f"adapter {request.model}: its name is switched too often; try again"
        )

    async def _begin(self, tenant: Tenant, request: PromptRequest) -> Running:
        """Take all steps of a request; everything that can refuse it comes before its decision.

        Raises:
            _TemplateChanged: the decision's adapter is not the one that the template is of.
        """
        routing = self.names.routing_request(request.model, request.adapters)
        if isinstance(routing, RouterRequest):
            check_routed_prompts(request.prompt)
        template = await self._template(tenant, routing, request)
        prompts = await self._prompts.read(
            tenant.id, request.prompt, self.max_model_len, template.text
        )
        grammar = await self._grammars.compile_grammar(tenant.id, request.grammar)
        sampling = self._sampling(request, prompts, grammar)
        check_sequences(len(prompts.ids), request.n)
        check_memory(prompts.ids, sampling, request.n)
        verdict = await self._admit(tenant, request, prompts, sampling)
        try:
            decided = await self.decider.decide(tenant.id, routing, prompts)
            if not template.is_for(decided):
                raise _TemplateChanged
            self.demand.arrive(tenant.id, decided, prompts.ids, request.n)
            choices = self._choices.build(tenant, request, routing, prompts, sampling, decided)
            echoes = echoes_of(request, prompts, self.codec)
        except BaseException:
            self._admission.settle(verdict, tokens=0)
            raise
        return self._run(tenant, request, decided, choices, verdict, echoes)

    async def _template(
        self, tenant: Tenant, routing: RoutingRequest, request: PromptRequest
    ) -> ChosenTemplate:
        """Choose the chat template: an adapter's own, where it is asked alone."""
        if self._templates is None or not isinstance(request.prompt, Conversation):
            return ChosenTemplate()
        return await self._templates.choose(tenant.id, routing)

    def _sampling(
        self, request: PromptRequest, prompts: Prompts, grammar: str
    ) -> list[SamplingParams]:
        """Fit the sampling parameters to each prompt."""
        room, vocabulary = self.max_model_len, self.codec.vocab_size
        return [
            sampling_for(request, len(ids), room, vocabulary, self.config, grammar)
            for ids in prompts.ids
        ]

    async def _admit(
        self,
        tenant: Tenant,
        request: PromptRequest,
        prompts: Prompts,
        sampling: Sequence[SamplingParams],
    ) -> QuotaVerdict:
        """Take places and tokens of the tenant."""
        expected = self._expected.total(tenant.id, request.asked_names, sampling)
        return await self._admission.admit(
            tenant,
            self._new_id(),
            sequences=len(prompts.ids) * request.n,
            prompt_tokens=prompts.tokens,
            max_new_tokens=sum(one.max_tokens for one in sampling) * request.n,
            expected_new_tokens=expected * request.n,
        )

    def _run(
        self,
        tenant: Tenant,
        request: PromptRequest,
        decided: RequestDecision,
        choices: tuple[Choice, ...],
        verdict: QuotaVerdict,
        echoes: tuple[Echo, ...],
    ) -> Running:
        times = TokenTimes(self.metrics, self.clock)
        self.metrics.in_flight.inc()
        return Running(
            tenant=tenant,
            request=request,
            decided=decided,
            prompts=len(choices) // request.n,
            choices=choices,
            relay=Relay(choices, times),
            times=times,
            verdict=verdict,
            echoes=echoes,
        )

    async def explain(self, running: Running) -> None:
        """Attach the decision's explanation to each answer, if requested."""
        if running.request.explain:
            await explain_answers(running, self.routing)

    def refuse(self, tenant: TenantId | None, endpoint: Endpoint, error: BaseException) -> None:
        """Record a request that ended before it began; ``tenant`` is None if unknown."""
        outcome = outcome_of_end(error)
        self.metrics.requests.labels(tenant or "", endpoint.value, outcome.value).inc()
        current_record().fail(error, outcome)

    def finish(self, running: Running, error: BaseException | None) -> None:
        """End a request: cancel what is not over, and record how it ended. Only once."""
        if running.outcome is not None:
            return
        running.outcome = outcome_of_end(error)
        running.relay.close()
        tenant, endpoint = running.tenant.id, running.request.endpoint.value
        now = self.clock.monotonic()
        self.metrics.in_flight.dec()
        self.metrics.requests.labels(tenant, endpoint, running.outcome.value).inc()
        self.metrics.request_seconds.observe(now - running.times.started)
        spent = spent_on(running.choices, running.prompts)
        self.demand.finish(running, error)
        self._meter.record_parts(tenant, running.outcome, spent.parts)
        for choice in running.choices:
            if choice.is_complete:
                names, sampling = running.request.asked_names, choice.spec.sampling
                self._expected.observe(tenant, names, sampling, choice.generated)
            if choice.rerouting is not None:
                choice.rerouting.stop()
                for sentence in choice.rerouting.sentences[1:]:
                    self.metrics.reroutes.labels(sentence.state.value).inc()
        self._admission.settle(running.verdict, tokens=spent.tokens)
        note_end(running, error, now)
        self._traces.note(running, now)
