"""One sequence from submission to its last token, across the loss of replicas.

A sequence is submitted to one replica; when that replica is lost the tokens received so far are
sent to another one with the same decision, which continues after them. With greedy or seeded
sampling the client cannot tell. Where sentences were routed again, their decisions go along.
"""

import dataclasses
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field

import structlog

from cluster.clock import Clock
from cluster.domain.ids import AdapterDigest, ReplicaId, RequestId, TenantId
from cluster.domain.replica import ReplicaChoice
from cluster.domain.request import (
    FinishReason,
    GenerationRequest,
    SamplingParams,
    TokenLogprobs,
    Usage,
)
from cluster.errors import DeadlineExceeded, ReplicaLost, error_from_code
from cluster.placement.picking.filters import PickRequest
from deployments.front.requests.replicas import ReplicaSet
from deployments.front.requests.rerouting import SentenceRerouting
from deployments.front.text.text_stream import TextCodec
from deployments.front.text.token_bytes import TokenPlace
from deployments.link.link_client import ReplicaLink
from deployments.link.link_messages import Reroute, Submit
from router_service.request_decision import RequestDecision

log = structlog.get_logger(__name__)

REPLICA_WAIT_S = 30.0
MAX_FAILOVERS = 3


@dataclass(frozen=True, slots=True)
class SequenceSpec:
    """What to generate."""

    tenant: TenantId
    prompt_token_ids: tuple[int, ...]
    sampling: SamplingParams
    stop: tuple[str, ...]
    decided: RequestDecision
    arrived_at: float  # wall clock, seconds
    deadline_at: float  # wall clock, seconds
    skip_special_tokens: bool = True  # leave them out of the text
    include_stop: bool = False  # end the text behind what stopped it


@dataclass(frozen=True, slots=True)
class Delta:
    """What one step adds to a sequence."""

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...]
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()  # of the prompt's next tokens
    gate_adapters: tuple[str, ...] = ()  # aliases, in the gate's order, beside its weights
    gate_weights: tuple[tuple[float, ...], ...] = ()  # [layers][adapters] behind the token
    places: tuple[TokenPlace, ...] = ()  # one per token id where log-probabilities are asked for


@dataclass(slots=True)
class Generation:
    """Runs one sequence. ``replica`` and ``choice`` say where, from the first delta on."""

    spec: SequenceSpec
    replicas: ReplicaSet
    codec: TextCodec
    clock: Clock
    new_id: Callable[[], RequestId]
    on_failover: Callable[[], None]
    http_request: str = ""  # id of the request that it belongs to, for logs
    failovers: int = 0
    rerouting: SentenceRerouting | None = None  # where the router decides by sentences
    choice: ReplicaChoice | None = None
    _tokens: list[int] = field(default_factory=list)
    _scored: int = 0  # log-probabilities of prompt tokens that were handed out
    _ended: bool = False  # by itself, at a limit or at a stop string

    @property
    def generated(self) -> int:
        """Tokens generated so far."""
        return len(self._tokens)

    @property
    def ran(self) -> bool:
        """Whether a replica has computed its prompt, as far as this front was told."""
        return bool(self._tokens or self._scored or self._ended)

    @property
    def ended(self) -> bool:
        """Whether it came to its end: no error, and nobody gave it up."""
        return self._ended

    async def run(self) -> AsyncGenerator[Delta, None]:
        """Deltas until the sequence ends; closing the iterator early cancels it on the replica.

        Raises:
            BraidError: the sequence cannot be finished.
        """
        text = self.codec.stream(
            self.spec.stop,
            self.spec.sampling.min_tokens,
            skip_special_tokens=self.spec.skip_special_tokens,
            include_stop=self.spec.include_stop,
        )
        placed = self.codec.places(skip_special_tokens=self.spec.skip_special_tokens)
        lost: list[ReplicaId] = []
        while True:
            digests = self._digests
            self.choice, link = await self.replicas.pick(
                PickRequest(digests, self.spec.tenant, exclude=tuple(lost)), wait_s=REPLICA_WAIT_S
            )
            request_id = self.new_id()
            try:
                queue = link.submit(self._submission(request_id))
            except ReplicaLost:
                continue
            self._attach(link, request_id)
            self.replicas.view.sent(
                request_id, link.replica_id, self.spec.tenant, digests, self.clock.wall()
            )
            ended = False
            scored = 0
            try:
                while (chunk := await queue.get()) is not None:
                    if chunk.finish_reason is FinishReason.ERROR:
                        ended = True
                        if chunk.error_code == ReplicaLost.code:
                            break  # it is stopping: like one that is gone
                        raise error_from_code(
                            chunk.error_code or "engine_error", chunk.error_message or ""
                        )
                    if chunk.finish_reason is FinishReason.DEADLINE:
                        ended = True
                        raise DeadlineExceeded("the request's time was up before it finished")
                    ended = chunk.finish_reason is not None
                    self._tokens.extend(chunk.token_ids)
                    if self.rerouting is not None:
                        self.rerouting.hear(chunk)
                    # Another replica starts again where none of its tokens had come.
                    fresh = chunk.prompt_logprobs[max(0, self._scored - scored) :]
                    scored += len(chunk.prompt_logprobs)
                    self._scored = max(self._scored, scored)
                    stops = chunk.finish_reason is FinishReason.STOP
                    piece = text.push(chunk.token_ids, ends=stops)
                    places: tuple[TokenPlace, ...] = ()
                    if self.spec.sampling.logprobs is not None:
                        hidden = stops and not self.spec.include_stop
                        places = placed.add_all(chunk.token_ids, last_is_hidden=hidden)
                    delta = Delta(
                        piece,
                        chunk.token_ids,
                        chunk.logprobs,
                        prompt_logprobs=fresh,
                        gate_adapters=self._gate_adapters if chunk.gate_weights else (),
                        gate_weights=chunk.gate_weights,
                        places=places,
                    )
                    reason = chunk.finish_reason
                    self._ended = text.stopped or reason in (FinishReason.STOP, FinishReason.LENGTH)
                    if text.stopped:
                        yield dataclasses.replace(
                            delta,
                            finish_reason=FinishReason.STOP,
                            usage=self._usage(chunk.usage),
                        )
                        return
                    if ended:
                        yield dataclasses.replace(
                            delta,
                            text=delta.text + text.finish(),
                            finish_reason=chunk.finish_reason,
                            usage=self._usage(chunk.usage),
                        )
                        return
                    if self.rerouting is not None:
                        self.rerouting.feed(piece, len(self._tokens))
                    yield delta
            finally:
                if self.rerouting is not None:
                    self.rerouting.detach()
                self.replicas.view.finished(request_id)
                if not ended:
                    link.cancel(request_id)
            lost.append(link.replica_id)
            if len(lost) > MAX_FAILOVERS:
                raise ReplicaLost(f"{len(lost)} replicas were lost while answering")
            self.failovers += 1
            self.on_failover()
            log.warning(
                "front.failover",
                request=self.http_request,
                sequence=request_id,
                lost=link.replica_id,
                tokens=len(self._tokens),
            )

    @property
    def _digests(self) -> tuple[AdapterDigest, ...]:
        """Adapters that its tokens so far and its next ones need."""
        if self.rerouting is not None:
            return self.rerouting.digests
        return self.spec.decided.decision.digests

    def _attach(self, link: ReplicaLink, request_id: RequestId) -> None:
        if self.rerouting is not None:
            self.rerouting.attach(
                lambda signed, after: link.reroute(Reroute(request_id, signed, after))
            )

    @property
    def _gate_adapters(self) -> tuple[str, ...]:
        """A gate's decision has its candidates in the gate's order."""
        return tuple(score.alias for score in self.spec.decided.decision.scores)

    def _submission(self, request_id: RequestId) -> Submit:
        spec = self.spec
        return Submit(
            GenerationRequest(
                request_id=request_id,
                tenant=spec.tenant,
                prompt_token_ids=spec.prompt_token_ids,
                sampling=spec.sampling,
                resumed_token_ids=tuple(self._tokens),
                arrived_at=spec.arrived_at,
                deadline_at=spec.deadline_at,
                http_request=self.http_request,
            ),
            spec.decided.encoded,
            () if self.rerouting is None else self.rerouting.begun(),
        )

    def _usage(self, reported: Usage | None) -> Usage:
        cached = reported.cached_tokens if reported is not None else 0
        queued = reported.queued_s if reported is not None else None
        return Usage(len(self.spec.prompt_token_ids), len(self._tokens), cached, queued)
