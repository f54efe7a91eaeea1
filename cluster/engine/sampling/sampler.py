"""Chooses the next token of every sampling row: greedy, temperature, top-k, top-p, min-p, seeded.

A row's draw is one uniform number derived from (seed, index of the token in the completion), so the
same request gives the same tokens whatever else is in the batch, after preemption, and after moving
to another replica. Tokens are drawn by inverting the cumulative distribution in vocabulary order:
unlike an order by probability, it does not jump when two near-equal probabilities swap ranks.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch

from cluster.domain.request import SamplingParams, TokenLogprobs
from cluster.engine.sampling.logit_adjustment import LogitAdjustment, adjust_logits, adjustment_of
from cluster.engine.sampling.row_numbers import RowNumbers, send
from cluster.engine.sequence import EngineSequence
from cluster.errors import EngineError

NUCLEUS_CANDIDATES = 256
"""Likeliest tokens looked at first for top-p; a flatter row falls back to a full sort."""

LOGPROB_ROWS = 64
"""Rows whose log-probabilities are computed at once: a copy of their logits is made."""

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
        index = send(torch.tensor(adjusted), logits.device)
        part = logits[index]
        adjust_logits(part, [row.adjustment for row in rows if row.adjustment is not None])
        best, best_ids = part.max(dim=-1)
        maxima.index_copy_(0, index, best)
        token_ids.index_copy_(0, index, best_ids)
        finite &= torch.isfinite(maxima)
        if any(rows[i].temperature > 0 for i in adjusted):
            shaped = logits.index_copy(0, index, part)
    told = [token_ids, finite.long()]
    drawn = [i for i, row in enumerate(rows) if row.temperature > 0]
    if drawn:
        told[0], flat = _draw(shaped, maxima, token_ids, rows, drawn)
        if flat is not None:
            told.append(flat)
    tokens, valid, *flat_rows = torch.stack(told).tolist()  # the host waits here, and once
    again = [i for flags in flat_rows for i, flag in enumerate(flags) if flag]
    if again:
        whole, _ = _draw(shaped, maxima, token_ids, rows, again, whole=True)
        for i, token in zip(again, whole[again].tolist(), strict=True):
            tokens[i] = token
    return SampledTokens(
        tuple(tokens),
        _logprobs(logits, tokens, rows),
        frozenset(i for i, ok in enumerate(valid) if not ok),
    )


def _draw(
    logits: torch.Tensor,
    maxima: torch.Tensor,
    token_ids: torch.Tensor,
    rows: Sequence[SamplingRow],
    drawn: Sequence[int],
    *,
    whole: bool = False,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Draw the tokens of some rows by inverse transform over the truncated distribution.

    Args:
        logits: [rows, vocabulary].
        maxima: [rows], largest logits.
        token_ids: [rows], of the rows that do not draw.
        rows: all of the step.
        drawn: the indices of those that draw.
        whole: True to sort the whole vocabulary for top-p.

    Returns:
        The token ids [rows], and [rows] int64, 1 for rows whose candidates are too few for their
        top-p: these must be drawn again by the whole vocabulary. None: no row asks for top-p.
    """
    chosen = [rows[i] for i in drawn]
    vocab = logits.shape[1]
    uniforms = [uniform(row.seed, row.index) for row in chosen]
    numbers = RowNumbers.of(chosen, drawn, uniforms, vocab, logits.device)
    every = len(drawn) == len(rows)
    if not every:
        logits, maxima = logits[numbers.places], maxima[numbers.places]
    probs = (logits - maxima[:, None]).div_(numbers.temperature[:, None]).softmax(dim=-1)
    if len(numbers.limited):
        probs = _keep_top_k(probs, numbers)
    flat = None
    if len(numbers.nucleus):
        probs, lacking = _keep_top_p(probs, numbers, whole=whole)
        if lacking is not None:
            flat = torch.zeros_like(token_ids)
            flat[numbers.places[numbers.nucleus]] = lacking
    if len(numbers.floored):
        probs = _keep_min_p(probs, numbers)

    cumulative = probs.double().cumsum_(dim=-1)
    total = cumulative[:, -1]
    # u < 1, but u * total may round up to total, which no entry exceeds.
    target = torch.minimum(numbers.uniform * total, total.nextafter(torch.zeros_like(total)))
    found = torch.searchsorted(cumulative, target[:, None], right=True)[:, 0].clamp_(max=vocab - 1)
    return (found if every else token_ids.index_copy(0, numbers.places, found)), flat


def _keep_top_k(probs: torch.Tensor, numbers: RowNumbers) -> torch.Tensor:
    """Zeroes what is less likely than the k-th of its row; equals of the k-th are kept."""
    part = probs[numbers.limited]
    values = part.topk(numbers.most_k, dim=-1).values
    threshold = values.gather(1, numbers.top_k[:, None] - 1)
    part = part.masked_fill(part < threshold, 0.0)
    return probs.index_copy(0, numbers.limited, part / part.sum(dim=-1, keepdim=True))


def _keep_top_p(
    probs: torch.Tensor, numbers: RowNumbers, *, whole: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Zeroes what lies outside the smallest set of likeliest tokens whose mass reaches top_p.

    The item that crosses the threshold is kept, and so are its equals.

    Returns:
        The probabilities, and which of the nucleus rows [n] int64 would need more candidates than
        were looked at; None if none would.
    """
    part = probs[numbers.nucleus]
    lacking = None
    if not whole and part.shape[1] > NUCLEUS_CANDIDATES:
        values = part.topk(NUCLEUS_CANDIDATES, dim=-1).values
        lacking = (values.sum(dim=-1) < numbers.top_p).long()
        if answers_at_once(part.device):
            whole, lacking = bool(lacking.any()), None
    else:
        whole = True
    if whole:
        values = part.sort(dim=-1, descending=True).values
    before = values.cumsum(dim=-1) - values
    kept = (before < numbers.top_p[:, None]).sum(dim=-1, keepdim=True).clamp_(min=1)
    threshold = values.gather(1, kept - 1)
    part = part.masked_fill(part < threshold, 0.0)
    return probs.index_copy(0, numbers.nucleus, part), lacking


def answers_at_once(device: torch.device) -> bool:
    """Return whether the host can ask for a number there without waiting for it."""
    return device.type == "cpu"


def _keep_min_p(probs: torch.Tensor, numbers: RowNumbers) -> torch.Tensor:
    """Zeroes what is less likely than min_p times the likeliest (arXiv 2407.01082, section 3)."""
    part = probs[numbers.floored]
    threshold = numbers.min_p[:, None] * part.max(dim=-1, keepdim=True).values
    return probs.index_copy(0, numbers.floored, part.masked_fill(part < threshold, 0.0))


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
        ids = send(torch.tensor(tokens[start:end]), logits.device)[:, None]
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
        logits[send(torch.tensor(wanted), logits.device)],
        [tokens[i] for i in wanted],
        [rows[i].logprobs or 0 for i in wanted],
    )
    for i, answer in zip(wanted, entries, strict=True):
        answers[i] = answer
    return tuple(answers)
