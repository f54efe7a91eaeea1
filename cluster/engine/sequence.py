"""One request's progress through the engine."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt

from cluster.domain.ids import RequestId, Slot
from cluster.domain.request import FinishReason, GenerationRequest, Usage
from cluster.engine.mixing import Mixing
from cluster.engine.spans import Span, span_at, spans_between
from cluster.errors import EngineError, PromptTooLong, RequestError


class Grammar(Protocol):
    """Tells which tokens may come next."""

    def allowed(self, generated: list[int]) -> npt.NDArray[np.bool_]:
        """Return [vocabulary], true for each token that may follow ``generated``."""
        ...


class SequenceStatus(StrEnum):
    """The state of a sequence. A preempted one waits again."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


@dataclass(slots=True, eq=False)
class EngineSequence:
    """A request's tokens, how many of them have KV, and where it lies.

    Mutable and private to the engine: the scheduler alone changes it after creation, but for
    ``whole_prefill``, which the engine clears once what needed the whole prompt is known,
    ``num_scored``, which it advances, and the times, which it notes.

    Of ``token_ids``, [0, prompt_len) is the prompt, the rest is generated (here or, for a resumed
    request, elsewhere); [0, num_computed) has its keys and values in the blocks of ``block_table``.
    """

    request: GenerationRequest
    spans: tuple[Span, ...]  # by start, the first at 0
    token_ids: list[int]  # prompt, then generated tokens
    prompt_len: int
    max_len: int  # it ends when token_ids is this long
    stop_token_ids: frozenset[int]
    adjusts_logits: bool = False  # its sampling parameters change logits
    grammar: Grammar | None = None  # that its completion must match
    mixing: Mixing | None = None  # how its adapters are weighed beyond their weights
    whole_prefill: bool = False  # its prompt must be computed in one step, and not from the cache
    num_scored: int = 0  # rows of the prompt whose logits gave the next token's log-probability
    num_computed: int = 0
    num_counted: int = 0  # most tokens that were computed at once; its tenant was served so many
    num_cached: int = 0  # prompt tokens found in the prefix cache when it was first admitted
    block_table: list[int] = field(default_factory=list)
    block_keys: list[str] = field(default_factory=list)  # keys of its first full blocks
    num_published: int = 0  # blocks at the start of block_table that need no publishing
    num_preemptions: int = 0
    kept_tokens: int = 0  # left in the prefix cache when it yielded its row, until it has one again
    submitted_at: float = 0.0  # monotonic, seconds; set by the engine, like the next one
    queued_s: float | None = None  # until its first step
    first_held: int = 0  # of its spans; adapters of those before may have left the bank
    is_recalled: bool = False  # its owner wants it back once it has no row
    num_begun: int = 1  # spans whose first token has been computed, here or elsewhere
    arrival: int = -1  # position in the order of arrival, set by the scheduler
    admission: int = -1  # position in the order of first admissions; -1 before
    defer_limit: int | None = None  # stop deferring it after this many admissions
    status: SequenceStatus = SequenceStatus.WAITING
    finish_reason: FinishReason | None = None  # set exactly once

    @classmethod
    def create(
        cls,
        request: GenerationRequest,
        *,
        namespace: str,
        adapters: tuple[tuple[Slot, float], ...],
        stop_token_ids: frozenset[int],
        max_model_len: int,
        whole_prefill: bool = False,
        mixing: Mixing | None = None,
        grammar: Grammar | None = None,
        spans: tuple[Span, ...] = (),
        before: Usage | None = None,
    ) -> Self:
        """Build the sequence of a request.

        Tokens that the request brings along (``resumed_token_ids``) count as generated, and are
        prefilled like the prompt.

        Args:
            request: what to generate.
            namespace: its KV namespace.
            adapters: (slot, weight) of its mixture; empty is the base alone.
            stop_token_ids: the model's end-of-sequence tokens; the request's own are added, and
                ``ignore_eos`` leaves the model's out.
            max_model_len: longest prompt plus completion, in tokens.
            whole_prefill: see the field.
            mixing: see the field.
            grammar: see the field.
            spans: what follows the first one, which ``namespace`` and ``adapters`` are of; in
                the prompt where adapters are activated, in the completion where it is re-routed.
            before: its usage when it was handed back, if it was: what it began with stays.

        Raises:
            RequestError: an empty prompt, or a negative max_tokens.
            PromptTooLong: no room for one token after the prompt.
            EngineError: spans that do not follow each other.
        """
        sampling = request.sampling
        prompt_len = len(request.prompt_token_ids)
        if prompt_len == 0:
            raise RequestError("the prompt has no tokens", param="prompt")
        if sampling.max_tokens < 0:
            raise RequestError(
                f"max_tokens is {sampling.max_tokens}, expected 0 or more", param="max_tokens"
            )
        if prompt_len >= max_model_len:
            raise PromptTooLong(
                f"the prompt has {prompt_len} tokens; the context window is {max_model_len} tokens "
                "for prompt and completion together",
                param="prompt",
            )
        eos = frozenset() if sampling.ignore_eos else stop_token_ids
        num_tokens = prompt_len + len(request.resumed_token_ids)
        starts = [span.start for span in spans]
        if starts and (starts[0] <= 0 or starts != sorted(set(starts)) or mixing):
            raise EngineError(
                f"spans begin at tokens {starts}{' under a gate or router' * bool(mixing)}, "
                "expected ascending ones from 1 on, with weights that are known"
            )
        return cls(
            request=request,
            spans=(Span(0, namespace, adapters), *spans),
            num_begun=1 + sum([start < num_tokens for start in starts]),
            token_ids=[*request.prompt_token_ids, *request.resumed_token_ids],
            prompt_len=prompt_len,
            max_len=min(prompt_len + sampling.max_tokens, max_model_len),
            stop_token_ids=eos | frozenset(sampling.stop_token_ids),
            adjusts_logits=sampling.adjusts_logits,
            grammar=grammar,
            mixing=mixing,
            whole_prefill=whole_prefill,
            num_cached=0 if before is None else before.cached_tokens,
            num_preemptions=0 if before is None else 1,
            queued_s=None if before is None else before.queued_s,
        )

    @property
    def request_id(self) -> RequestId:
        return self.request.request_id

    @property
    def namespace(self) -> str:
        """KV namespace of its first span."""
        return self.spans[0].namespace

    @property
    def span(self) -> int:
        """Index of the span that its next token to be computed lies in."""
        return span_at(self.spans, self.num_computed) if len(self.spans) > 1 else 0

    @property
    def adapters(self) -> tuple[tuple[Slot, float], ...]:
        """(slot in the device bank, weight) for its next tokens, in mixture order."""
        return self.spans[self.span].adapters

    def adapters_at(self, token: int) -> tuple[tuple[Slot, float], ...]:
        """Return the (slot, weight) pairs that a token is computed with, in mixture order."""
        return self.spans[span_at(self.spans, token)].adapters

    def spans_between(self, start: int, stop: int) -> tuple[tuple[int, int], ...]:
        """Return (index of the span, number of tokens) of each span in tokens [start, stop)."""
        if len(self.spans) == 1:
            return ((0, stop - start),)
        return spans_between(self.spans, start, stop)

    @property
    def is_recomputable(self) -> bool:
        """All its tokens could be computed again: the adapters of its spans are in the bank."""
        if self.first_held == 0:
            return True
        held = {slot for span in self.spans[self.first_held :] for slot in span.slots}
        return all(span.slots <= held for span in self.spans[: self.first_held])

    @property
    def is_to_return(self) -> bool:
        """It is not kept when it has no row. A recalled one is, if it would tell of its prompt
        twice."""
        has_told = self.num_scored > 0 and self.num_generated == 0
        return not self.is_recomputable or (self.is_recalled and not has_told)

    @property
    def may_yield(self) -> bool:
        """It can leave the batch at the cost of few tokens, if the prefix cache keeps its own."""
        return self.is_recomputable and not self.needs_every_row

    @property
    def num_tokens(self) -> int:
        """Prompt and generated tokens."""
        return len(self.token_ids)

    @property
    def num_generated(self) -> int:
        """Generated tokens, those resumed from elsewhere included."""
        return len(self.token_ids) - self.prompt_len

    @property
    def generated_token_ids(self) -> list[int]:
        """Generated tokens, those resumed from elsewhere included."""
        return self.token_ids[self.prompt_len :]

    @property
    def num_uncomputed(self) -> int:
        """Tokens whose keys and values are still to be computed."""
        return len(self.token_ids) - self.num_computed

    @property
    def is_prefilling(self) -> bool:
        """More than the newest token is to be computed."""
        return self.num_uncomputed > 1

    @property
    def is_finished(self) -> bool:
        return self.status is SequenceStatus.FINISHED

    @property
    def is_unscored(self) -> bool:
        """Log-probabilities of its prompt are asked for and not all known.

        What was resumed from elsewhere was scored there: no token is generated before that.
        """
        return (
            self.request.sampling.prompt_logprobs is not None
            and self.num_generated == 0
            and self.num_scored < self.prompt_len - 1
        )

    @property
    def needs_every_row(self) -> bool:
        """Its prompt cannot be taken from the prefix cache."""
        return self.whole_prefill or self.is_unscored

    @property
    def end_by_tokens(self) -> FinishReason | None:
        """The reason why its tokens alone end it: the newest one stops it, or it is long enough."""
        if self.num_generated and self.token_ids[-1] in self.stop_token_ids:
            return FinishReason.STOP
        if len(self.token_ids) >= self.max_len and not self.is_unscored:
            return FinishReason.LENGTH
        return None

    @property
    def usage(self) -> Usage:
        return Usage(
            prompt_tokens=self.prompt_len,
            completion_tokens=self.num_generated,
            cached_tokens=self.num_cached,
            queued_s=self.queued_s,
        )

    def reroute(self, namespace: str, adapters: tuple[tuple[Slot, float], ...], after: int) -> int:
        """Continue with other adapters once ``after`` tokens of the completion are there; what
        has been or is being computed stays as it is.

        Returns:
            How many tokens of the completion come before.

        Raises:
            EngineError: it waits for another change already, or its adapters are weighed within
                the model.
        """
        if self.mixing is not None or self.whole_prefill:
            raise EngineError("adapters that are weighed within the model cannot be re-routed")
        if self.spans[-1].start >= self.num_tokens:
            raise EngineError(
                "the sequence already waits to continue with other adapters; "
                "re-route it once that has begun"
            )
        # A plan that is being computed has no token beyond those known.
        start = max(self.num_tokens, self.prompt_len + after)
        self.spans = (*self.spans, Span(start, namespace, adapters))
        return start - self.prompt_len

    def release_before(self, start: int) -> bool:
        """Release the adapters of the spans before the one at ``start``, in completion tokens.

        Returns False, releasing nothing, while they are needed to compute what is missing.
        """
        first = self.prompt_len + start
        if self.num_computed < first:
            return False
        self.first_held = span_at(self.spans, first)
        return True
