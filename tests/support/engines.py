"""A running engine over a tiny model, for tests: requests in, whole answers out."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from cluster.config import AdapterConfig, EngineConfig
from cluster.domain.decision import (
    SiteWeights,
)
from cluster.domain.ids import RequestId, Slot
from cluster.domain.request import (
    FinishReason,
    GenerationChunk,
    GenerationRequest,
    SamplingParams,
    TokenLogprobs,
    Usage,
)
from cluster.engine.factory import BuiltTorchEngine, build_torch_engine
from cluster.engine.mixing import Mixing
from cluster.engine.mixing_parts import MixingParts
from cluster.engine.spans import Span
from tests.support.decisions import TENANT, decision_over
from tests.support.manual_clock import ManualClock

Mixture = tuple[tuple[Slot, float], ...]
LoraTensors = Mapping[str, tuple[torch.Tensor, torch.Tensor, float]]


def make_request(
    name: str, prompt: Sequence[int], sampling: SamplingParams | None = None, **fields: object
) -> GenerationRequest:
    """Make a request; greedy and 8 tokens long unless ``sampling`` says otherwise."""
    return GenerationRequest(
        request_id=RequestId(name),
        tenant=TENANT,
        prompt_token_ids=tuple(prompt),
        sampling=sampling or SamplingParams(max_tokens=8, temperature=0.0),
        decision=decision_over(),
        **fields,  # type: ignore[arg-type]
    )


@dataclass
class Answer:
    """All chunks of one request, joined."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprobs] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    error_code: str | None = None
    site_weights: SiteWeights | None = None


class RunningEngine:
    """Collects chunks by request; ``stop`` checks that nothing is left behind."""

    def __init__(self, model_dir: Path, *, slots: int = 8, **config: object) -> None:
        options = {"block_size": 4, "kv_blocks": 128, "max_model_len": 128, "max_batch_size": 8}
        seeds = iter(range(1, 1_000_000))
        self.mixing = MixingParts()
        self.built: BuiltTorchEngine = build_torch_engine(
            model_dir,
            EngineConfig(**(options | config)),
            AdapterConfig(slots=slots),
            clock=ManualClock(),
            on_chunks=self._receive,
            new_seed=lambda: next(seeds),
            mixing=self.mixing,
        )
        self.engine = self.built.engine
        self.answers: dict[str, Answer] = {}
        self.on_chunk: Callable[[GenerationChunk], None] | None = None
        self._arrived = threading.Condition()
        self._started = False

    def load(self, slot: int, tensors: LoraTensors) -> None:
        self.built.bank.write(slot, tensors)

    def submit(
        self,
        request: GenerationRequest,
        mixture: Mixture = (),
        namespace: str | None = None,
        mixing: Mixing | None = None,
        spans: Sequence[Span] = (),
    ) -> None:
        self.answers[request.request_id] = Answer()
        namespace = repr(mixture) if namespace is None else namespace
        self.engine.submit(request, namespace, mixture, mixing, spans)

    def start(self) -> None:
        if not self._started:
            self._started = True
            self.engine.start()

    def wait(self, *names: str) -> list[Answer]:
        self.start()
        with self._arrived:
            done = self._arrived.wait_for(
                lambda: all(self.answers[name].finish_reason for name in names), timeout=60
            )
        assert done, f"no end for {names}: {self.answers}"
        return [self.answers[name] for name in names]

    def ask(
        self,
        request: GenerationRequest,
        mixture: Mixture = (),
        namespace: str | None = None,
        mixing: Mixing | None = None,
    ) -> Answer:
        self.submit(request, mixture, namespace, mixing)
        return self.wait(request.request_id)[0]

    def stop(self) -> None:
        assert self.engine.stop(drain=False, timeout_s=60)
        self.engine.check_integrity()
        self.built.bank.check_integrity()
        stats = self.engine.stats()
        assert stats.counters.integrity_failures == 0
        assert stats.counters.callback_failures == 0
        assert all(answer.finish_reason for answer in self.answers.values())

    def _receive(self, chunks: list[GenerationChunk]) -> None:
        with self._arrived:
            for chunk in chunks:
                answer = self.answers[chunk.request_id]
                assert answer.finish_reason is None, "a chunk after the last one"
                assert not (answer.tokens and chunk.prompt_logprobs), "a prompt told too late"
                answer.tokens += chunk.token_ids
                answer.prompt_logprobs += chunk.prompt_logprobs
                answer.logprobs += chunk.logprobs
                answer.finish_reason = chunk.finish_reason
                answer.usage = chunk.usage
                answer.error_code = chunk.error_code
                if chunk.site_weights is not None:
                    assert answer.site_weights is None, "decided twice"
                    answer.site_weights = chunk.site_weights
                if self.on_chunk is not None:
                    self.on_chunk(chunk)
            self._arrived.notify_all()
