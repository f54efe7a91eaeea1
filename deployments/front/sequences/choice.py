"""Generates one sequence of an answer, from submission to its last token.

A sequence is submitted to one replica; when that replica is lost, the tokens received so far are
sent to another one with the same decision, which continues after them. With greedy or seeded
sampling the client cannot tell. Where sentences were routed again, their decisions go along.
"""

import structlog

from cluster.domain.ids import AdapterDigest, ReplicaId, RequestId
from cluster.domain.replica import ReplicaChoice
from cluster.domain.request import (
    FinishReason,
    GenerationChunk,
    GenerationRequest,
    TokenLogprobs,
    Usage,
)
from cluster.errors import DeadlineExceeded, ReplicaLost, error_from_code
from cluster.tenancy.waiting_places import WaitingPlace
from cluster.waiting.failed_replicas import FailedReplicas
from cluster.waiting.patience import MAX_FAILOVERS, REPLICA_WAIT_S
from deployments.front.sequences.rerouting import SentenceRerouting
from deployments.front.sequences.sequence_answer import Delta, SequenceAnswer
from deployments.front.sequences.sequence_spec import ChoiceServices, SequenceSpec
from deployments.front.text.token_bytes import TokenPlace
from deployments.link.link_client import ChunkSink, ReplicaLink
from deployments.link.link_messages import Reroute, Submit

log = structlog.get_logger(__name__)


class Choice:
    """Runs one sequence on the event loop and collects its answer.

    ``submit_to_replica`` finds a replica; every chunk that comes then goes through ``take_chunk``,
    until ``is_over`` or an error. ``cancel`` ends it early.

    Args:
        spec: what to generate.
        services: shared by all choices.
        index: position among the request's choices.
        http_request: id of the HTTP request that it belongs to, for logs.
        rerouting: decides its later sentences, where the router decides by sentences.
    """

    def __init__(
        self,
        spec: SequenceSpec,
        services: ChoiceServices,
        *,
        index: int = 0,
        http_request: str = "",
        rerouting: SentenceRerouting | None = None,
    ) -> None:
        self.spec = spec
        self.index = index
        self.rerouting = rerouting
        self.answer = SequenceAnswer()
        self.failovers = 0
        self.replica: ReplicaId | None = None  # that it was submitted to last
        self.picked: ReplicaChoice | None = None  # the pick before its first token
        self.is_over = False
        self._services = services
        self._http_request = http_request
        self._text = services.codec.stream(
            spec.stop,
            spec.sampling.min_tokens,
            skip_special_tokens=spec.skip_special_tokens,
            include_stop=spec.include_stop,
        )
        self._placed = services.codec.places(skip_special_tokens=spec.skip_special_tokens)
        self._link: ReplicaLink | None = None
        self._request_id = RequestId("")  # at that replica
        self._failed = FailedReplicas()
        self._scored = 0  # log-probabilities of prompt tokens that were handed out
        self._scored_here = 0  # that the present replica has sent
        self._is_complete = False

    @property
    def generated(self) -> int:
        """Return the number of tokens generated so far."""
        return len(self.answer.token_ids)

    @property
    def has_run(self) -> bool:
        """Return whether a replica has computed its prompt, as far as this front knows."""
        return bool(self.answer.token_ids or self._scored or self._is_complete)

    @property
    def is_complete(self) -> bool:
        """Return whether it ended by itself, at a limit or at a stop string."""
        return self._is_complete

    async def submit_to_replica(self, sink: ChunkSink) -> None:
        """Pick a replica and submit the sequence, to go on after the tokens so far.

        Raises:
            Starting: no replica could be reached in time.
            ReplicaLost: none that could be was fit to be picked.
            Overloaded: all replicas stayed full, or too many sequences of the tenant wait already.
        """
        with self._services.replicas.places.place(self.spec.tenant, self._weight) as place:
            await self._submit(sink, place)

    async def _submit(self, sink: ChunkSink, place: WaitingPlace) -> None:
        services = self._services
        while not self.is_over:
            await services.wait_for_replica(place, self._patience_s)
            place.weight = self._weight
            spec, prompt = self.spec, len(self.spec.prompt_token_ids)
            wanted = spec.hints.pick_request(
                spec.tenant,
                self._digests,
                prompt=prompt,
                generated=self.generated,
                excluded=self._failed.excluded(services.replicas.view),
            )
            try:
                picked, link = await services.replicas.pick(
                    wanted, wait_s=min(REPLICA_WAIT_S, self._time_left_s), place=place
                )
            except ReplicaLost:
                if services.replicas.ready:
                    raise
                continue  # the last one has gone meanwhile
            if self.is_over:  # its client has gone meanwhile
                return
            if not self.generated:
                self.picked = picked
            request_id = services.new_id()
            try:
                link.submit(self._submission(request_id), sink)
            except ReplicaLost:
                continue
            self._join_replica(link, request_id)
            services.on_pick(self.spec.tenant, picked)
            now = services.clock.monotonic()
            services.replicas.view.sent(request_id, link.replica_id, wanted, now)
            return

    def take_chunk(self, chunk: GenerationChunk | None) -> Delta | None:
        """Add what the replica sent; returns None if the sequence must be submitted again.

        ``chunk`` is None when the replica was lost.

        Raises:
            BraidError: the sequence cannot be finished.
        """
        if chunk is None:
            self._leave_replica()
            self._fail_over()
            return None
        reason = chunk.finish_reason
        if reason is FinishReason.ERROR:
            self._leave_replica()
            if chunk.error_code == ReplicaLost.code:  # it is stopping: like one that is gone
                self._fail_over(stops=True)
                return None
            raise error_from_code(chunk.error_code or "engine_error", chunk.error_message or "")
        if reason is FinishReason.DEADLINE:
            self._leave_replica()
            raise DeadlineExceeded("the request's time was up before it finished")
        delta = self._delta_of(chunk)
        self.answer.add(delta)
        if delta.finish_reason is not None:
            self.is_over = True
            self._is_complete = delta.finish_reason in (FinishReason.STOP, FinishReason.LENGTH)
            self._leave_replica(cancel=reason is None)
        elif self.rerouting is not None:
            self.rerouting.feed_text(delta.text, self.generated)
        return delta

    def cancel(self) -> None:
        """End it if it is not over, also on its replica."""
        self.is_over = True
        self._leave_replica(cancel=True)

    def _delta_of(self, chunk: GenerationChunk) -> Delta:
        token_ids, reason = chunk.token_ids, chunk.finish_reason
        if self.rerouting is not None:
            self.rerouting.hear_chunk(chunk)
        stops = reason is FinishReason.STOP
        text = self._text.push(token_ids, ends=stops)
        usage: Usage | None = None
        if self._text.stopped:
            reason = FinishReason.STOP
        elif reason is not None:
            text += self._text.finish()
        if reason is not None:
            usage = self._usage(chunk.usage, self.generated + len(token_ids))
        places: tuple[TokenPlace, ...] = ()
        if self.spec.sampling.logprobs is not None:
            hidden = stops and not self.spec.include_stop
            places = self._placed.add_all(token_ids, last_is_hidden=hidden)
        return Delta(
            text,
            token_ids,
            chunk.logprobs,
            reason,
            usage,
            self._fresh_scores(chunk) if chunk.prompt_logprobs else (),
            self._gate_adapters if chunk.gate_weights else (),
            chunk.gate_weights,
            places,
        )

    def _fresh_scores(self, chunk: GenerationChunk) -> tuple[TokenLogprobs, ...]:
        """Drop the prompt's log-probabilities that a lost replica had sent before."""
        fresh = chunk.prompt_logprobs[max(0, self._scored - self._scored_here) :]
        self._scored_here += len(chunk.prompt_logprobs)
        self._scored = max(self._scored, self._scored_here)
        return fresh

    def _join_replica(self, link: ReplicaLink, request_id: RequestId) -> None:
        self._link, self._request_id, self._scored_here = link, request_id, 0
        self.replica = link.replica_id
        if self.rerouting is not None:
            self.rerouting.attach(
                lambda signed, after: link.reroute(Reroute(request_id, signed, after))
            )

    def _leave_replica(self, *, cancel: bool = False) -> None:
        link, self._link = self._link, None
        if link is None:
            return
        if self.rerouting is not None:
            self.rerouting.detach()
        self._services.replicas.view.finished(self._request_id)
        if cancel:
            link.cancel(self._request_id)

    def _fail_over(self, *, stops: bool = False) -> None:
        """Note a lost replica, or one that stops.

        Raises:
            ReplicaLost: it was one too many.
        """
        assert self.replica is not None
        known = self._services.replicas.view.snapshot(self.replica)
        planned = stops and (known is None or known.draining)
        self._failed.add(self.replica, stops=stops, planned=planned)
        if self._failed.unplanned > MAX_FAILOVERS:
            raise ReplicaLost(f"{self._failed.unplanned} replicas were lost while answering")
        self.failovers += 1
        self._services.on_failover()
        log.warning(
            "front.failover",
            request=self._http_request,
            sequence=self._request_id,
            lost=self.replica,
            tokens=self.generated,
        )

    @property
    def _weight(self) -> float:
        return self._services.weight(self.spec.tenant)

    @property
    def _patience_s(self) -> float:
        """Return how long it may wait for a replica, in seconds."""
        return max(0.0, min(self._time_left_s, self.spec.max_wait_s))

    @property
    def _time_left_s(self) -> float:
        return self.spec.deadline_at - self._services.clock.monotonic()

    @property
    def _digests(self) -> tuple[AdapterDigest, ...]:
        """Return the adapters that its tokens so far and its next ones need."""
        if self.rerouting is not None:
            return self.rerouting.digests
        return self.spec.decided.decision.digests

    @property
    def _gate_adapters(self) -> tuple[str, ...]:
        """Return a gate's candidates, in the gate's order."""
        return tuple(score.alias for score in self.spec.decided.decision.scores)

    def _submission(self, request_id: RequestId) -> Submit:
        spec = self.spec
        return Submit(
            GenerationRequest(
                request_id=request_id,
                tenant=spec.tenant,
                prompt_token_ids=spec.prompt_token_ids,
                sampling=spec.sampling,
                resumed_token_ids=tuple(self.answer.token_ids),
                http_request=self._http_request,
                weight=self._weight,
                itl_s=self._services.promised_itl(spec.tenant),
            ),
            spec.decided.encoded,
            () if self.rerouting is None else self.rerouting.started_segments(),
            self._time_left_s,
        )

    def _usage(self, reported: Usage | None, generated: int) -> Usage:
        found = reported or Usage(0, 0)
        prompt = len(self.spec.prompt_token_ids)
        return Usage(prompt, generated, found.cached_tokens, found.queued_s)
