"""Changes a row's logits before a token is chosen: bias, penalties, tokens that may not come.

In this order: ``logit_bias`` is added; tokens of the prompt and the completion are discouraged by
``repetition_penalty``; tokens of the completion by ``frequency_penalty`` and ``presence_penalty``;
banned tokens and those that the grammar does not allow become impossible.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from cluster.engine.sequence import EngineSequence


@dataclass(frozen=True, slots=True, eq=False)
class LogitAdjustment:
    """The adjustments of one row. Token ids beyond the vocabulary are ignored: they cannot be
    chosen."""

    logit_bias: tuple[tuple[int, float], ...] = ()
    repetition_penalty: float = 1.0  # over prompt_ids and generated_ids; 1 is off
    frequency_penalty: float = 0.0  # times a token's count in generated_ids
    presence_penalty: float = 0.0  # once for each token of generated_ids
    prompt_ids: Sequence[int] = ()
    generated_ids: Sequence[int] = ()
    banned_ids: frozenset[int] = frozenset()
    allowed: npt.NDArray[np.bool_] | None = None  # [vocabulary]; None: every token


def adjustment_of(sequence: EngineSequence) -> LogitAdjustment | None:
    """Return what a sequence's next token needs, or None if the logits stay as they are."""
    if not sequence.adjusts_logits:
        return None
    params = sequence.request.sampling
    counted = params.frequency_penalty != 0 or params.presence_penalty != 0
    repeated = params.repetition_penalty != 1
    grammar = sequence.grammar
    early = sequence.num_generated < params.min_tokens
    return LogitAdjustment(
        logit_bias=params.logit_bias,
        repetition_penalty=params.repetition_penalty,
        frequency_penalty=params.frequency_penalty,
        presence_penalty=params.presence_penalty,
        prompt_ids=sequence.request.prompt_token_ids if repeated else (),
        generated_ids=sequence.generated_token_ids if repeated or counted else (),
        banned_ids=sequence.stop_token_ids if early else frozenset(),
        allowed=None if grammar is None else grammar.allowed(sequence.generated_token_ids),
    )


def adjust_logits(logits: torch.Tensor, rows: Sequence[LogitAdjustment]) -> None:
    """Apply one adjustment to each row of ``logits`` [rows, vocabulary], fp32, in place."""
    width = logits.shape[1]
    flat = logits.view(-1)
    places: list[int] = []
    values: list[float] = []
    for at, row in enumerate(rows):
        for token, bias in row.logit_bias:
            if token < width:
                places.append(at * width + token)
                values.append(bias)
    if places:
        added = torch.tensor(values, device=logits.device, dtype=logits.dtype)
        flat.index_add_(0, torch.tensor(places, device=logits.device), added)
    _penalise_repeated(flat, rows, width)
    _penalise_generated(flat, rows, width)
    banned = [(at, [list(row.banned_ids)]) for at, row in enumerate(rows) if row.banned_ids]
    if banned:
        flat.index_fill_(0, _places(banned, flat, width), -torch.inf)
    for at, row in enumerate(rows):
        if row.allowed is not None:
            allowed = torch.from_numpy(row.allowed).to(logits.device)
            logits[at].masked_fill_(~allowed, -torch.inf)


def _penalise_repeated(flat: torch.Tensor, rows: Sequence[LogitAdjustment], width: int) -> None:
    """Apply CTRL's penalty (arXiv 1909.05858, section 4.1), negative logits made more negative."""
    seen = [
        (at, (row.prompt_ids, row.generated_ids))
        for at, row in enumerate(rows)
        if row.repetition_penalty != 1
    ]
    if not seen:
        return
    index = torch.unique(_places(seen, flat, width))
    penalty = _by_row([row.repetition_penalty for row in rows], index, width, flat)
    values = flat[index]
    flat[index] = torch.where(values < 0, values * penalty, values / penalty)


def _penalise_generated(flat: torch.Tensor, rows: Sequence[LogitAdjustment], width: int) -> None:
    generated = [
        (at, (row.generated_ids,))
        for at, row in enumerate(rows)
        if row.frequency_penalty != 0 or row.presence_penalty != 0
    ]
    if not generated:
        return
    index, counts = torch.unique(_places(generated, flat, width), return_counts=True)
    frequency = _by_row([row.frequency_penalty for row in rows], index, width, flat)
    presence = _by_row([row.presence_penalty for row in rows], index, width, flat)
    flat[index] = flat[index] - counts * frequency - presence


def _places(
    rows: Iterable[tuple[int, Iterable[Sequence[int]]]], like: torch.Tensor, width: int
) -> torch.Tensor:
    """Return the positions of (row, lists of token ids) in the flattened logits."""
    parts = [np.empty(0, dtype=np.int64)]
    for at, lists in rows:
        for tokens in lists:
            ids = np.asarray(tokens, dtype=np.int64)
            parts.append(ids[ids < width] + at * width)
    return torch.from_numpy(np.concatenate(parts)).to(like.device)


def _by_row(
    values: list[float], index: torch.Tensor, width: int, like: torch.Tensor
) -> torch.Tensor:
    """Return the value of each position's row."""
    every = torch.tensor(values, device=like.device, dtype=like.dtype)
    return every[index // width]
