"""The steps of a scheduler computed by a model runner, with tokens that the test dictates."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch

from cluster.config import EngineConfig
from cluster.domain.ids import RequestId, Slot
from cluster.domain.request import SamplingParams
from cluster.engine.execution.cuda_graphs import CapturedStep
from cluster.engine.execution.model_runner import ModelRunner
from cluster.engine.execution.step_batches import StepBatches
from cluster.engine.mixing import Mixing
from cluster.engine.mixing_parts import MixingParts
from cluster.engine.model.model_loader import LoadedModel, load_model
from cluster.engine.scheduling.block_pool import BlockPool
from cluster.engine.scheduling.scheduler import Scheduler
from cluster.engine.sequence import EngineSequence
from kernels.lora.bank import AdapterBank
from tests.support.engines import make_request
from tests.support.manual_clock import ManualClock

VOCAB, WIDTH = 97, 64

MakeBatches = Callable[[LoadedModel, EngineConfig, AdapterBank], StepBatches]


@dataclass(frozen=True)
class Case:
    """A request: tokens of its prompt, its adapters, and its gate if any."""

    prompt: int
    mixture: tuple[tuple[int, float], ...] = ()
    gate: str = ""
    tokens: int = 3


@dataclass(frozen=True)
class TokenGate:
    """A `MixingGate` with weights of its own for every layer and token."""

    weight: torch.Tensor  # [layers, k, width]
    resolution: str = "layer"

    @property
    def num_adapters(self) -> int:
        return self.weight.shape[1]

    @property
    def num_layers(self) -> int:
        return self.weight.shape[0]

    @property
    def hidden_size(self) -> int:
        return self.weight.shape[2]

    def weights(self, layer: int, site: int | None, x: torch.Tensor) -> torch.Tensor:
        rows = x[:, :WIDTH].float()  # a site may be asked about a wider input of its own
        answer = torch.softmax(rows @ self.weight[layer].T, dim=-1)
        return answer if site is None else answer * (1.0 + 0.1 * site)

    def to(self, device: torch.device) -> Self:
        return type(self)(self.weight.to(device), self.resolution)


def random_gates(layers: int = 2) -> MixingParts:
    """Make a gate over two adapters that answers by layer, and one that answers by site."""
    generator = torch.Generator().manual_seed(5)
    weight = torch.randn(layers, 2, WIDTH, generator=generator) * 0.2
    return MixingParts({"layer": TokenGate(weight), "site": TokenGate(weight, "site")})


class Recorded:
    """A `Capture` that computes again on replay, and counts."""

    def __init__(self) -> None:
        self.captured: list[int] = []  # rows of each step
        self.replays = 0

    def __call__(self, compute: Callable[[], torch.Tensor]) -> CapturedStep:
        logits = compute()
        self.captured.append(logits.shape[0])

        def replay() -> None:
            self.replays += 1
            with torch.inference_mode():
                logits.copy_(compute())

        return CapturedStep(replay, logits)


class Steps:
    """A scheduler and a runner without an engine around them."""

    def __init__(
        self,
        model_dir: Path,
        config: EngineConfig,
        make_batches: MakeBatches | None = None,
        ranks: Mapping[int, int] | None = None,
    ) -> None:
        """``ranks`` are those of the adapters, by slot; None: three of different rank."""
        loaded = load_model(model_dir, config)
        self.bank = AdapterBank(loaded.sites, 4, 8, dtype=loaded.dtype, device=loaded.device)
        for slot, rank in ({0: 4, 1: 8, 2: 3} if ranks is None else ranks).items():
            self.load(loaded, slot, rank)
        batches = None if make_batches is None else make_batches(loaded, config, self.bank)
        self.runner = ModelRunner(loaded, config, self.bank, random_gates(), batches)
        pool = BlockPool(self.runner.kv_blocks, config.block_size)
        self._scheduler = Scheduler(config, pool, ManualClock())
        self._max_model_len = loaded.max_model_len
        self.mixed = 0  # steps that held prefill and decode

    def load(self, loaded: LoadedModel, slot: int, rank: int) -> None:
        generator = torch.Generator().manual_seed(slot)
        self.bank.write(
            slot,
            {
                path: (
                    torch.randn(rank, site.in_features, generator=generator) / 8,
                    torch.randn(width, rank, generator=generator) / rank,
                    1.5,
                )
                for site in loaded.sites
                for path, width in site.out_slices
            },
        )

    def run(self, cases: Mapping[str, Case]) -> dict[str, torch.Tensor]:
        """Compute log-probabilities [tokens, vocabulary] of all requests, submitted at once."""
        for salt, (name, case) in enumerate(cases.items()):
            prompt = [(31 * position + 7 * salt + 1) % VOCAB for position in range(case.prompt)]
            sampling = SamplingParams(max_tokens=case.tokens, temperature=0.0, logprobs=VOCAB)
            self._scheduler.add_sequence(
                EngineSequence.create(
                    make_request(name, prompt, sampling),
                    namespace=name,
                    adapters=tuple((Slot(slot), weight) for slot, weight in case.mixture),
                    stop_token_ids=frozenset(),
                    max_model_len=self._max_model_len,
                    mixing=Mixing(gate=case.gate) if case.gate else None,
                )
            )
        told: dict[str, list[torch.Tensor]] = {name: [] for name in cases}
        seeds = {RequestId(name): 0 for name in cases}
        while (plan := self._scheduler.schedule()) is not None:
            counts = [item.count for item in plan.scheduled]
            self.mixed += min(counts) == 1 < max(counts)
            output = self.runner.execute(plan, seeds)
            assert not output.failed
            for request_id, found in output.logprobs.items():
                row = torch.empty(VOCAB)
                for token, logprob in found.top:
                    row[token] = logprob
                told[request_id].append(row)
            tokens = {
                item.sequence.request_id: (5 * item.end + 3) % VOCAB
                for item in plan.scheduled
                if item.samples
            }
            self._scheduler.commit(plan, tokens)
            self._scheduler.check_integrity()
        return {name: torch.stack(rows) for name, rows in told.items()}
