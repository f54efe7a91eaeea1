"""Chooses the next token of every sampling row: greedy, temperature, top-k, top-p, min-p, seeded.

A row's draw is one uniform number derived from (seed, index of the token in the completion), so the
same request gives the same tokens whatever else is in the batch, after preemption, and after moving
to another replica. Tokens are drawn by inverting the cumulative distribution in vocabulary order:
unlike an order by probability, it does not jump when two near-equal probabilities swap ranks.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch

from cluster.domain.request import SamplingParams, TokenLogprobs
from cluster.engine.sampling.logit_adjustment import LogitAdjustment, adjust_logits, adjustment_of
from cluster.engine.sequence import EngineSequence
from cluster.errors import EngineError

NUCLEUS_CANDIDATES = 256
"""Likeliest tokens looked at first for top-p; a flatter row falls back to a full sort."""

LOGPROB_ROWS = 64
"""Rows whose log-probabilities are computed at once: a copy of their logits is made."""

_FLOAT32 = torch.finfo(torch.float32)
_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15


@dataclass(slots=True)
class SamplingRow:
    """The parameters that turn one row of logits into a token."""

    temperature: float  # 0 is greedy
    top_p: float  # (0, 1]
    top_k: int  # 0 is off
    seed: int
    index: int  # of the token in the completion, tokens generated elsewhere included
    logprobs: int | None = None  # None: off; 0: the chosen token only; n: the n likeliest too
    min_p: float = 0.0  # 0 is off
    adjustment: LogitAdjustment | None = None  # of the logits, before anything else

    @classmethod
    def of(cls, sequence: EngineSequence, seed: int) -> Self:
        """Take the parameters of a sequence's next token."""
        params = sequence.request.sampling
        return cls(
            temperature=params.temperature,
            top_p=params.top_p,
            top_k=params.top_k,
            seed=seed,
            index=sequence.num_generated,
            logprobs=params.logprobs,
            min_p=params.min_p,
            adjustment=adjustment_of(sequence),
        )


@dataclass(frozen=True, slots=True)
class SampledTokens:
    """One token per row."""

    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs | None, ...]
    invalid_rows: frozenset[int]
    """Rows whose logits hold a NaN or +inf, or leave no token; their token means nothing."""


NOTHING_SAMPLED = SampledTokens((), (), frozenset())


def check_sampling(params: SamplingParams) -> None:
    """Raises EngineError for values that have no meaning; the front has refused them before."""
    if not (math.isfinite(params.temperature) and params.temperature >= 0):
        raise EngineError(f"temperature must be finite and >= 0, got {params.temperature}")
    if not 0 < params.top_p <= 1:
        raise EngineError(f"top_p must be in (0, 1], got {params.top_p}")
    if params.top_k < 0:
        raise EngineError(f"top_k must be >= 0, got {params.top_k}")
    if params.logprobs is not None and params.logprobs < 0:
        raise EngineError(f"logprobs must be >= 0, got {params.logprobs}")
    if params.prompt_logprobs is not None and params.prompt_logprobs < 0:
        raise EngineError(f"prompt_logprobs must be >= 0, got {params.prompt_logprobs}")
    if not 0 <= params.min_p <= 1:
        raise EngineError(f"min_p must be in [0, 1], got {params.min_p}")
    if not (math.isfinite(params.repetition_penalty) and params.repetition_penalty > 0):
        raise EngineError(
            f"repetition_penalty must be finite and > 0, got {params.repetition_penalty}"
        )
    for name in ("presence_penalty", "frequency_penalty"):
        if not math.isfinite(getattr(params, name)):
            raise EngineError(f"{name} must be finite, got {getattr(params, name)}")
    for token, bias in params.logit_bias:
        if token < 0 or not math.isfinite(bias):
            raise EngineError(f"logit_bias must be finite for ids >= 0, got {bias} for {token}")
    if params.min_tokens < 0:
        raise EngineError(f"min_tokens must be >= 0, got {params.min_tokens}")


def uniform(seed: int, index: int) -> float:
    """Return a number in [0, 1) that depends only on ``seed`` and ``index`` (SplitMix64)."""
    z = _mix64((_mix64(seed & _MASK) + (index + 1) * _GOLDEN) & _MASK)
    return (z >> 11) * 2.0**-53


def _mix64(z: int) -> int:
    z = (z + _GOLDEN) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


def sample(logits: torch.Tensor, rows: Sequence[SamplingRow]) -> SampledTokens:
    """Choose one token per row of ``logits`` [rows, vocabulary], fp32.

    Log-probabilities are of the raw distribution: before adjustments, temperature and truncation
    (top-k, then top-p of what is left, then min-p). Greedy rows take the first of equal maxima.
    ``logits`` is not changed.
    """
    if logits.shape[0] != len(rows):
        raise EngineError(f"{logits.shape[0]} rows of logits for {len(rows)} sampling rows")
    maxima, token_ids = logits.max(dim=-1)
    finite = torch.isfinite(maxima)
    shaped = logits
    adjusted = [i for i, row in enumerate(rows) if row.adjustment is not None]
    if adjusted:
        index = torch.tensor(adjusted, device=logits.device)
        part = logits[index]
        adjust_logits(part, [row.adjustment for row in rows if row.adjustment is not None])
        best, best_ids = part.max(dim=-1)
        maxima.index_copy_(0, index, best)
        token_ids.index_copy_(0, index, best_ids)
        finite &= torch.isfinite(maxima)
        if any(rows[i].temperature > 0 for i in adjusted):
            shaped = logits.index_copy(0, index, part)
    drawn = [i for i, row in enumerate(rows) if row.temperature > 0]
    if drawn:
        chosen = [rows[i] for i in drawn]
        if len(drawn) == len(rows):
            token_ids = _draw(shaped, maxima, chosen)
        else:
            at = torch.tensor(drawn, device=logits.device)
            token_ids[at] = _draw(shaped[at], maxima[at], chosen)
    tokens, valid = torch.stack((token_ids, finite.long())).tolist()
    return SampledTokens(
        tuple(tokens),
        _logprobs(logits, tokens, rows),
        frozenset(i for i, ok in enumerate(valid) if not ok),
    )


def _draw(logits: torch.Tensor, maxima: torch.Tensor, rows: Sequence[SamplingRow]) -> torch.Tensor:
    """Draw token ids [rows] by inverse transform over the truncated distribution."""
    options: dict[str, Any] = {"device": logits.device, "dtype": torch.float32}
    temperature = torch.tensor([row.temperature for row in rows], **options)
    # As 0 a likeliest token, and as infinity an impossible one, would have the probability NaN.
    temperature.clamp_(_FLOAT32.tiny, _FLOAT32.max)
    probs = ((logits - maxima[:, None]) / temperature[:, None]).softmax(dim=-1)
    vocab = probs.shape[1]

    limited = [i for i, row in enumerate(rows) if 0 < row.top_k < vocab]
    if limited:
        probs = _keep_top_k(probs, limited, [rows[i].top_k for i in limited])
    nucleus = [i for i, row in enumerate(rows) if row.top_p < 1]
    if nucleus:
        probs = _keep_top_p(probs, nucleus, [rows[i].top_p for i in nucleus])
    floored = [i for i, row in enumerate(rows) if row.min_p > 0]
    if floored:
        probs = _keep_min_p(probs, floored, [rows[i].min_p for i in floored])

    cumulative = probs.double().cumsum(dim=-1)
    total = cumulative[:, -1]
    u = torch.tensor(
        [uniform(row.seed, row.index) for row in rows], device=logits.device, dtype=torch.float64
    )
    # u < 1, but u * total may round up to total, which no entry exceeds.
    target = torch.minimum(u * total, torch.nextafter(total, torch.zeros_like(total)))
    token_ids = torch.searchsorted(cumulative, target[:, None], right=True)[:, 0]
    return token_ids.clamp_(max=vocab - 1)


def _keep_top_k(probs: torch.Tensor, at: list[int], top_k: list[int]) -> torch.Tensor:
    """Zeroes what is less likely than the k-th of its row; equals of the k-th are kept."""
    index = torch.tensor(at, device=probs.device)
    part = probs[index]
    values = part.topk(max(top_k), dim=-1).values
    threshold = values.gather(1, torch.tensor(top_k, device=probs.device)[:, None] - 1)
    part = part.masked_fill(part < threshold, 0.0)
    return probs.index_copy(0, index, part / part.sum(dim=-1, keepdim=True))


def _keep_top_p(probs: torch.Tensor, at: list[int], top_p: list[float]) -> torch.Tensor:
    """Zeroes what lies outside the smallest set of likeliest tokens whose mass reaches top_p.

    The item that crosses the threshold is kept, and so are its equals.
    """
    index = torch.tensor(at, device=probs.device)
    part = probs[index]
    p = torch.tensor(top_p, device=probs.device, dtype=probs.dtype)[:, None]
    values = part.topk(min(NUCLEUS_CANDIDATES, part.shape[1]), dim=-1).values
    if values.shape[1] < part.shape[1] and bool((values.sum(dim=-1, keepdim=True) < p).any()):
        values = part.sort(dim=-1, descending=True).values
    before = values.cumsum(dim=-1) - values
    kept = (before < p).sum(dim=-1, keepdim=True).clamp_(min=1)
    threshold = values.gather(1, kept - 1)
    return probs.index_copy(0, index, part.masked_fill(part < threshold, 0.0))


def _keep_min_p(probs: torch.Tensor, at: list[int], min_p: list[float]) -> torch.Tensor:
    """Zeroes what is less likely than min_p times the likeliest (arXiv 2407.01082, section 3)."""
    index = torch.tensor(at, device=probs.device)
    part = probs[index]
    p = torch.tensor(min_p, device=probs.device, dtype=probs.dtype)[:, None]
    threshold = p * part.max(dim=-1, keepdim=True).values
    return probs.index_copy(0, index, part.masked_fill(part < threshold, 0.0))


def token_logprobs(
    logits: torch.Tensor, tokens: Sequence[int], tops: Sequence[int]
) -> list[TokenLogprobs]:
    """Return the log-probabilities of given tokens.

    Args:
        logits: [rows, vocabulary], fp32; not changed.
        tokens: of each row, the token asked for.
        tops: of each row, how many of the likeliest tokens to tell.
    """
    answers: list[TokenLogprobs] = []
    for start in range(0, len(tokens), LOGPROB_ROWS):
        end = start + LOGPROB_ROWS
        log_probs = logits[start:end].log_softmax(dim=-1)
        ids = torch.tensor(tokens[start:end], device=logits.device)[:, None]
        chosen = log_probs.gather(1, ids)[:, 0].tolist()
        most = min(max(tops[start:end]), logits.shape[1])
        top_values, top_ids = (part.tolist() for part in log_probs.topk(most, dim=-1))
        answers += [
            TokenLogprobs(logprob=logprob, top=tuple(zip(best[:n], values[:n], strict=True)))
            for logprob, n, best, values in zip(
                chosen, tops[start:end], top_ids, top_values, strict=True
            )
        ]
    return answers


def _logprobs(
    logits: torch.Tensor, tokens: Sequence[int], rows: Sequence[SamplingRow]
) -> tuple[TokenLogprobs | None, ...]:
    answers: list[TokenLogprobs | None] = [None] * len(rows)
    wanted = [i for i, row in enumerate(rows) if row.logprobs is not None]
    if not wanted:
        return tuple(answers)
    entries = token_logprobs(
        logits[torch.tensor(wanted, device=logits.device)],
        [tokens[i] for i in wanted],
        [rows[i].logprobs or 0 for i in wanted],
    )
    for i, answer in zip(wanted, entries, strict=True):
        answers[i] = answer
    return tuple(answers)
