"""Correctness check: no figure is printed of an engine that disagrees with PEFT.

One mixed batch goes through the engine: the base with idle adapters, single adapters, mixtures of
four. Each answer is then scored by PEFT in fp32: the log-probabilities that the engine gave for
the likeliest tokens must be PEFT's, and each token must be PEFT's likeliest one, both within
``kernels.tolerances.LOGPROBS_RMS``. A check that adapters hardly move could not fail; so leaving
the adapters out must move PEFT's own answers by more than the tolerance.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from benchmarks.engine.bank_loading import AdapterShelf
from benchmarks.engine.cases import Mixture, case_named
from benchmarks.engine.engine_run import EngineRun
from cluster.domain.request import TokenLogprobs
from cluster.errors import BraidError
from kernels.tolerances import LOGPROBS_RMS

TOKENS = 6
TOP = 20
MARGIN = 4.0
"""A token's distance from PEFT's likeliest one may be this many times the tolerance: it is one
sample, not a mean."""
SENSITIVITY = 1.5
"""Leaving the adapters out must move the answers by this many times the tolerance."""

COARSE = 0.15
"""Adapters' own part may be wrong by this share where weights have fewer bits than fp32's."""


class BenchmarkRefused(BraidError):
    """The engine disagrees with the reference; there are no figures to show."""

    code = "benchmark_refused"


class ReferenceScorer(Protocol):
    """Scores that the check asks of the reference."""

    def logprobs(
        self, prompt: Sequence[int], answer: Sequence[int], mixture: Mixture
    ) -> torch.Tensor:
        """Score an answer: [len(answer), vocabulary] in fp32."""
        ...


@dataclass(frozen=True, slots=True)
class Agreement:
    """One request's agreement."""

    name: str
    rms: float  # of the differences of log-probabilities
    limit: float  # of ``rms``
    token_gap: float  # largest distance of a token from the reference's likeliest one
    sensitivity: float  # rms by which leaving the adapters out moves the reference; 0: no adapters

    @property
    def fault(self) -> str:
        """Name the fault; empty if there is none."""
        if not self.rms <= self.limit:
            return (
                f"{self.name}: log-probabilities differ from the reference by {self.rms:.3g} "
                f"(rms), expected at most {self.limit:.3g}"
            )
        if not self.token_gap <= MARGIN * self.limit:
            return (
                f"{self.name}: the reference prefers another token by {self.token_gap:.3g}, "
                f"expected at most {MARGIN * self.limit:.3g}"
            )
        if self.sensitivity and not self.sensitivity >= SENSITIVITY * self.limit:
            return (
                f"{self.name}: leaving the adapters out moves the reference by "
                f"{self.sensitivity:.3g} only; at a tolerance of {self.limit:.3g} that proves "
                "nothing"
            )
        return ""


def check_correctness(
    engine: EngineRun,
    shelf: AdapterShelf,
    reference: ReferenceScorer,
    *,
    weights: torch.dtype,
    vocab_size: int,
    seed: int,
) -> tuple[Agreement, ...]:
    """Compare the engine with the reference.

    Args:
        engine: nothing else may use it meanwhile; its bank is changed.
        shelf: at least 16 adapters.
        reference: scores answers in fp32.
        weights: type of the engine's weights, which decides the tolerance.
        vocab_size: prompts are random tokens below it.
        seed: of the prompts.

    Raises:
        BenchmarkRefused: they disagree; the message names each request that does, and how.
    """
    mixture = case_named("mixture-4").mixtures(4)
    batch: dict[str, Mixture] = {
        "base with idle adapters": (),
        "one adapter": ((3, 1.0),),
        "another adapter": ((11, 1.0),),
        "mixture of 4": mixture[1],
        "another mixture of 4": mixture[3],
    }
    shelf.fill(engine.bank, 0)
    found = _ask(engine, reference, {"base": ()}, weights, vocab_size, seed)
    shelf.fill(engine.bank, 16)
    found += _ask(engine, reference, batch, weights, vocab_size, seed + 1)
    faults = [check.fault for check in found if check.fault]
    if faults:
        raise BenchmarkRefused(
            "the engine disagrees with PEFT, so nothing is measured:\n  " + "\n  ".join(faults)
        )
    return tuple(found)


def _ask(
    engine: EngineRun,
    reference: ReferenceScorer,
    batch: dict[str, Mixture],
    weights: torch.dtype,
    vocab_size: int,
    seed: int,
) -> list[Agreement]:
    generator = torch.Generator().manual_seed(seed)
    prompts = [
        torch.randint(vocab_size, (9 + 5 * index,), generator=generator).tolist()
        for index in range(len(batch))
    ]
    top = min(TOP, vocab_size)
    answers = engine.generate(prompts, tuple(batch.values()), TOKENS, logprobs=top)
    coarse = 0.0 if weights == torch.float32 else COARSE
    checks = []
    for (name, mixture), prompt, tokens, logprobs in zip(
        batch.items(), prompts, answers.tokens, answers.logprobs, strict=True
    ):
        want = reference.logprobs(prompt, tokens, mixture)
        chosen = want.gather(1, torch.tensor(tokens)[:, None])[:, 0]
        sensitivity = 0.0
        if mixture:
            sensitivity = _rms(logprobs, want, reference.logprobs(prompt, tokens, ()))
        checks.append(
            Agreement(
                name=name,
                rms=_rms(logprobs, want),
                limit=LOGPROBS_RMS[weights] + coarse * sensitivity,
                token_gap=float((want.max(dim=-1).values - chosen).max()),
                sensitivity=sensitivity,
            )
        )
    return checks


def _rms(
    logprobs: Sequence[TokenLogprobs], want: torch.Tensor, other: torch.Tensor | None = None
) -> float:
    """Compute the root mean square of (engine - want) over the engine's likeliest tokens; or
    (other - want)."""
    squares = [
        ((value if other is None else float(other[row, token])) - float(want[row, token])) ** 2
        for row, entry in enumerate(logprobs)
        for token, value in entry.top
    ]
    return math.sqrt(sum(squares) / len(squares)) if squares else math.nan
