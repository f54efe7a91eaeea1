"""The rows of a step whose logits are wanted, and what becomes of these logits."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch

from cluster.domain.ids import RequestId
from cluster.domain.request import TokenLogprobs
from cluster.engine.sampling.sampler import NOTHING_SAMPLED, SamplingRow, sample, token_logprobs
from cluster.engine.sequence import EngineSequence
from cluster.engine.steps import ScheduledSequence, StepOutput
from kernels.lora.lora_batch import Mixture


@dataclass(frozen=True, slots=True)
class StepRows:
    """The tokens of a packed step whose logits are wanted."""

    packed: list[int]  # positions in the step: of those that sample, then of the prompts'
    sampling: list[ScheduledSequence]
    scoring: list[tuple[EngineSequence, range]]  # positions in the prompt, of which rows are wanted

    @classmethod
    def of(cls, scheduled: Sequence[ScheduledSequence]) -> Self:
        """Return the wanted rows of a step's sequences."""
        sampling: list[ScheduledSequence] = []
        scoring: list[tuple[EngineSequence, range]] = []
        last: list[int] = []
        prompts: list[int] = []
        first = 0
        for item in scheduled:
            sequence = item.sequence
            if item.samples:
                sampling.append(item)
                last.append(first + item.count - 1)
            if sequence.is_unscored:
                end = min(item.end, sequence.prompt_len - 1)
                positions = range(max(item.start, sequence.num_scored), end)
                if positions:
                    scoring.append((sequence, positions))
                    prompts += range(first + positions.start - item.start, first + end - item.start)
            first += item.count
        return cls(last + prompts, sampling, scoring)

    @property
    def mixtures(self) -> Iterator[Mixture]:
        """Adapters of each row, in the order of ``packed``."""
        for item in self.sampling:
            yield item.sequence.adapters_at(item.end - 1)
        for sequence, positions in self.scoring:
            yield from map(sequence.adapters_at, positions)


def step_output(logits: torch.Tensor, rows: StepRows, seeds: Mapping[RequestId, int]) -> StepOutput:
    """Turn a step's logits, one row for each of ``rows.packed``, into the output of its plan."""
    sampling = [
        SamplingRow.of(item.sequence, seeds[item.sequence.request_id]) for item in rows.sampling
    ]
    ids = [item.sequence.request_id for item in rows.sampling]
    with torch.inference_mode():
        sampled = sample(logits[: len(sampling)], sampling) if sampling else NOTHING_SAMPLED
        prompts = _score(logits[len(sampling) :], rows) if rows.scoring else {}
    return StepOutput(
        token_ids=dict(zip(ids, sampled.token_ids, strict=True)),
        logprobs={
            request_id: logprobs
            for request_id, logprobs in zip(ids, sampled.logprobs, strict=True)
            if logprobs is not None
        },
        failed=dict.fromkeys(
            (ids[row] for row in sampled.invalid_rows),
            "the model answered with NaN or infinity, or the request's constraints leave no token",
        ),
        prompt_logprobs=prompts,
    )


def _score(logits: torch.Tensor, rows: StepRows) -> dict[RequestId, tuple[TokenLogprobs, ...]]:
    tokens: list[int] = []
    tops: list[int] = []
    for sequence, positions in rows.scoring:
        tokens += sequence.token_ids[positions.start + 1 : positions.stop + 1]
        tops += [sequence.request.sampling.prompt_logprobs or 0] * len(positions)
    entries = iter(token_logprobs(logits, tokens, tops))
    return {
        sequence.request_id: tuple(itertools.islice(entries, len(positions)))
        for sequence, positions in rows.scoring
    }
