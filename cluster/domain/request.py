"""A generation request and what comes back: the contract between front and replica."""

import math
from dataclasses import dataclass, field
from enum import StrEnum

from cluster.domain.decision import RoutingDecision, SiteWeights
from cluster.domain.ids import AdapterDigest, RequestId, TenantId


class FinishReason(StrEnum):
    """Names the reasons for which a sequence ends."""

    STOP = "stop"  # end-of-sequence token, stop token or stop string
    LENGTH = "length"  # max_tokens or the context window
    CANCELLED = "cancelled"  # the client disconnected
    DEADLINE = "deadline"
    ERROR = "error"


class Outcome(StrEnum):
    """The one closed set of ends of a request; the outcome label of every metric."""

    COMPLETED = "completed"
    REJECTED_AUTH = "rejected_auth"
    REJECTED_QUOTA = "rejected_quota"
    REJECTED_INVALID = "rejected_invalid"
    REJECTED_CAPACITY = "rejected_capacity"
    EVICTED_DEADLINE = "evicted_deadline"
    CANCELLED = "cancelled"
    FAILED_ADAPTER = "failed_adapter"
    FAILED_ENGINE = "failed_engine"


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Parameters of choosing tokens. The front, where text exists, applies stop strings."""

    max_tokens: int
    temperature: float = 1.0  # 0 is greedy
    top_p: float = 1.0  # (0, 1]
    top_k: int = 0  # 0 is off
    seed: int | None = None  # the same seed gives the same tokens whatever the batch
    stop_token_ids: tuple[int, ...] = ()  # besides the model's own end-of-sequence tokens
    logprobs: int | None = None  # None: off; 0: the chosen token only; n: the n likeliest too
    ignore_eos: bool = False
    min_p: float = 0.0  # [0, 1], of the likeliest token's probability; 0 is off
    presence_penalty: float = 0.0  # subtracted once from a token that was generated
    frequency_penalty: float = 0.0  # subtracted for each time that a token was generated
    repetition_penalty: float = 1.0  # divides logits of tokens in prompt or completion; 1 is off
    logit_bias: tuple[tuple[int, float], ...] = ()  # (token id, what is added to its logit)
    grammar: str = ""  # llguidance's JSON text that the completion must match; empty is free text
    min_tokens: int = 0  # no end-of-sequence or stop token, and no stop string, before
    prompt_logprobs: int | None = None  # of the prompt's tokens after the first; as ``logprobs``
    explain: bool = False  # tell with each token the gate's weights that it came from

    @property
    def adjusts_logits(self) -> bool:
        """Report whether logits are changed beyond temperature and truncation."""
        return bool(
            self.logit_bias
            or self.grammar
            or self.min_tokens
            or self.presence_penalty
            or self.frequency_penalty
            or self.repetition_penalty != 1
        )


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """Describes one sequence to generate. All that the engine needs; no text, no HTTP."""

    request_id: RequestId
    tenant: TenantId
    prompt_token_ids: tuple[int, ...]
    sampling: SamplingParams
    decision: RoutingDecision | None = None  # None until a replica has verified it
    resumed_token_ids: tuple[int, ...] = ()  # already generated elsewhere before a replica was lost
    deadline_at: float | None = None  # monotonic seconds of the process that computes it
    http_request: str = ""  # id of the HTTP request that it belongs to, for logs
    weight: float = 1.0  # of its tenant when it was sent, relative to other tenants
    itl_s: float = math.inf  # most seconds between tokens that its tenant is promised

    @property
    def digests(self) -> tuple[AdapterDigest, ...]:
        """Return the versions of its mixture, in its order; none for the base alone."""
        return () if self.decision is None else self.decision.digests


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Log-probabilities of one token (natural log, before temperature and truncation)."""

    logprob: float
    top: tuple[tuple[int, float], ...] = ()  # (token id, logprob), likeliest first


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one request."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0  # prompt tokens whose KV was found in the prefix cache
    queued_s: float | None = field(default=None, compare=False)
    """At its replica, until its adapters were there and its first step began; None: not known."""


@dataclass(frozen=True, slots=True)
class GenerationChunk:
    """The output of one engine step for one request."""

    request_id: RequestId
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] = ()  # one per token id, or empty when not asked for
    finish_reason: FinishReason | None = None  # set in the last chunk, exactly once
    usage: Usage | None = None  # set in the last chunk
    error_code: str | None = None  # with finish_reason ERROR: the BraidError code
    error_message: str | None = None
    site_weights: SiteWeights | None = None  # what its prompt's router decided, once
    gate_weights: tuple[tuple[float, ...], ...] = ()
    """[layers][adapters], with a token: the gate's weights at the row it was sampled from, where
    asked for."""
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()
    """Of the prompt's next tokens where asked for: the chunks together have those of all but the
    first token, in order, and complete no later than the first generated token."""
    span_start: int | None = None
    """With the first token computed with the adapters of a re-route: generated tokens before those
    that are computed with them."""
    reroute_error: str | None = None  # without a token: why the request keeps its adapters
