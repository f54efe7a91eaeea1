"""Routes a sequence again at each sentence's end (DLP-LoRA, option of a router).

The text is cut into sentences as it comes. At the beginning of a new one the router is asked for
its decision. If that is another mixture, the replica receives it, and decodes on with what it has
until the adapters are there. One re-route is under way at a time; of the sentences that begin
meanwhile the newest is decided next.

Everything but the time that this takes follows from the tokens. So the replica is asked to change
only some tokens after the sentence's beginning, and how many these were in the end is kept with the
decision: a repeat changes at the same token, has the same text, and finds all decisions stored,
unless its way to the replica takes longer than that.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum

import structlog

from cluster.domain.adapter import WeightedAdapter
from cluster.domain.decision import DecisionSource
from cluster.domain.ids import AdapterDigest
from cluster.domain.request import GenerationChunk
from cluster.errors import BraidError
from deployments.link.link_messages import SpanStart
from router_service.request_decision import RequestDecision
from router_service.routers.sentences import SentenceConfig, SentenceSplitter

log = structlog.get_logger(__name__)

LEAD_TOKENS = 4
"""Tokens from a sentence's beginning until its adapters are applied, where they are loaded: time
for its way through router, store and link."""

Send = Callable[[bytes, int], None]
"""Tells the replica of a signed decision, and of how many tokens of the completion come first."""


class SentenceState(StrEnum):
    """Says what became of a sentence's decision."""

    APPLIED = "applied"
    UNCHANGED = "unchanged"  # the mixture was in use already
    FAILED = "failed"  # the one before stayed
    UNREACHED = "unreached"  # the answer ended before


@dataclass(slots=True)
class SentenceDecision:
    """Holds one sentence of an answer, and what was decided at its beginning."""

    seen: int  # tokens of the completion when it had begun
    decided: RequestDecision | None = None
    state: SentenceState = SentenceState.UNREACHED
    start: int | None = None  # where applied: tokens of the completion computed before
    reason: str = ""  # where it failed


class SentenceRerouting:
    """Re-routes one sequence, on the event loop.

    Args:
        first: the prompt's decision.
        sentences: how sentences are told apart.
        decide: the decision for what follows a text, which ends in a sentence's beginning.
        keep_delay: notes with a decision how many tokens after that it was applied.
    """

    def __init__(
        self,
        first: RequestDecision,
        sentences: SentenceConfig,
        decide: Callable[[str], Awaitable[RequestDecision]],
        keep_delay: Callable[[RequestDecision, int], None],
    ) -> None:
        self.sentences = [SentenceDecision(0, first, SentenceState.APPLIED, 0)]
        self._decide = decide
        self._keep_delay = keep_delay
        self._splitter = SentenceSplitter(sentences)
        self._text: list[str] = []
        self._mixture = first.decision.mixture
        self._newest: SentenceDecision | None = None  # to be decided
        self._answer = ""  # at the beginning of the newest
        self._asked: SentenceDecision | None = None  # of the replica
        self._task: asyncio.Task[None] | None = None
        self._send: Send | None = None

    @property
    def applied(self) -> list[SentenceDecision]:
        """Return what tokens were computed with, in order; the prompt's decision first."""
        return [one for one in self.sentences if one.start is not None]

    @property
    def digests(self) -> tuple[AdapterDigest, ...]:
        """Return the adapters that the tokens so far were computed with, each once."""
        return tuple(
            dict.fromkeys(
                digest
                for one in self.applied
                if one.decided is not None
                for digest in one.decided.decision.digests
            )
        )

    def started_segments(self) -> tuple[SpanStart, ...]:
        """Return what another replica must know to continue after the tokens so far."""
        return tuple(
            SpanStart(one.start, one.decided.encoded)
            for one in self.applied[1:]
            if one.start is not None and one.decided is not None
        )

    def mixture_shares(self, tokens: int) -> list[tuple[int, tuple[WeightedAdapter, ...]]]:
        """Return how many of the completion's ``tokens`` each mixture has made."""
        starts = [one.start or 0 for one in self.applied]
        ends = [*starts[1:], tokens]
        return [
            (max(0, end - start), () if one.decided is None else one.decided.decision.mixture)
            for one, start, end in zip(self.applied, starts, ends, strict=True)
        ]

    def attach(self, send: Send) -> None:
        """Send to the replica that the sequence was submitted to, with `started_segments`."""
        self._send = send
        self._tell()

    def detach(self) -> None:
        """Send nothing more: the sequence has left its replica."""
        self._send = None

    def hear_chunk(self, chunk: GenerationChunk) -> None:
        """Take what a chunk says about the re-route that the replica was asked for."""
        asked = self._asked
        if asked is None or asked.decided is None:
            return
        if chunk.span_start is not None:
            asked.state, asked.start = SentenceState.APPLIED, chunk.span_start
            self._mixture = asked.decided.decision.mixture
            self._keep_delay(asked.decided, asked.start - asked.seen)
        elif chunk.reroute_error is not None:
            asked.state, asked.reason = SentenceState.FAILED, chunk.reroute_error
        else:
            return
        self._asked = None
        self._proceed()

    def feed_text(self, text: str, tokens: int) -> None:
        """Take more of the answer, which has ``tokens`` tokens now."""
        if not text:
            return
        self._text.append(text)
        if self._splitter.feed(text):
            self._newest = SentenceDecision(tokens)
            self._answer = "".join(self._text)
            self._proceed()

    def stop(self) -> None:
        """Stop deciding: the answer is over."""
        self._newest = None
        if self._task is not None:
            self._task.cancel()

    def _proceed(self) -> None:
        if self._newest is not None and self._asked is None and self._task is None:
            sentence, self._newest = self._newest, None
            self.sentences.append(sentence)
            self._task = asyncio.create_task(self._route(sentence, self._answer))

    async def _route(self, sentence: SentenceDecision, answer: str) -> None:
        try:
            decided = await self._decide(answer)
            sentence.decided = decided
            if decided.source is DecisionSource.FALLBACK:
                sentence.state = SentenceState.FAILED
                sentence.reason = "the router could not answer"
            elif decided.decision.mixture == self._mixture:
                sentence.state = SentenceState.UNCHANGED
            else:
                self._asked = sentence
                self._tell()
        except BraidError as error:
            sentence.state, sentence.reason = SentenceState.FAILED, error.message
        except Exception as error:
            log.error("front.reroute_failed", exc_info=error)
            sentence.state, sentence.reason = SentenceState.FAILED, "the sentence was not routed"
        self._task = None
        self._proceed()

    def _tell(self) -> None:
        asked = self._asked
        if asked is None or asked.decided is None or self._send is None:
            return
        delay = asked.decided.decision.delay
        lead = LEAD_TOKENS if delay is None else delay
        self._send(asked.decided.encoded, asked.seen + lead)
