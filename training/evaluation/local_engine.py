"""The serving engine in this process: prompts and mixtures in, greedy answers or scores out."""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from cluster.adapters.activation import active_from, stretches
from cluster.adapters.format.manifest import ANYWHERE, WEIGHTS_FILE
from cluster.adapters.validation.base_shapes import BaseShapes
from cluster.adapters.validation.inside_model import check_weighable
from cluster.base_model.source import ModelLocation
from cluster.clock import SystemClock
from cluster.config import AdapterConfig, EngineConfig
from cluster.domain.adapter import AdapterManifest
from cluster.domain.decision import RoutingDecision
from cluster.domain.ids import DecisionId, RequestId, Slot, TenantId
from cluster.domain.request import FinishReason, GenerationChunk, GenerationRequest, SamplingParams
from cluster.engine.factory import build_engine
from cluster.engine.mixing import Mixing
from cluster.engine.mixing_parts import MixingParts
from cluster.engine.spans import Span
from cluster.errors import EngineError, error_from_code
from router_service.routers.kind import EnginePart
from training.encoding import chat_prompt_ids

Weights = tuple[tuple[str, float], ...]
"""A mixture by alias; empty is the base alone."""

Progress = Callable[[int, int], None]
"""Called with sequences done and in all."""

_BLOCK = 16
_BATCH = 16
_STEP_TOKENS = 512
_MAX_RANK = 1024
_LEAST_ROOM = 2**20
_PART = "evaluated"
_TENANT = TenantId("local")
_DECISION = RoutingDecision.of_base(DecisionId("local"), _TENANT)


@dataclass(frozen=True, slots=True)
class Asked:
    """One prompt under one mixture."""

    prompt: str
    mixture: Weights = ()


@dataclass(frozen=True, slots=True)
class Likelihood:
    """Log-likelihood of a completion, its end-of-turn token included."""

    logprob: float  # nats, summed
    tokens: int


@dataclass(slots=True)
class _Sequence:
    tokens: list[int] = field(default_factory=list)
    prompt_logprobs: list[float] = field(default_factory=list)
    finish: FinishReason | None = None
    error: Exception | None = None


class LocalEngine:
    """One base model with all adapters that it will be asked for; a context manager.

    Raises:
        ModelSourceError: the model cannot be loaded.
        AdapterError: an adapter does not fit it.
    """

    def __init__(
        self,
        base: ModelLocation,
        adapters: Mapping[str, Path],
        *,
        threads: int = 0,
        max_model_len: int = 1024,
        base_check: str = "digest",
        device: str = "auto",
        part: EnginePart | None = None,
    ) -> None:
        """Load all of it.

        Args:
            base: the model.
            adapters: PEFT folders by alias.
            threads: CPU threads; 0 leaves the library's choice.
            max_model_len: prompt and answer, in tokens.
            base_check: as in ``AdapterConfig``.
            device: as in ``EngineConfig``.
            part: weighs every mixture that is asked for, which must be its adapters in its order.
        """
        import transformers

        transformers_logging: Any = transformers.utils.logging
        transformers_logging.disable_progress_bar()
        self._arrived = threading.Condition()
        self._sequences: dict[str, _Sequence] = {}
        self._asked = 0
        self._tokenizer: Any = transformers.AutoTokenizer.from_pretrained(
            base.path, local_files_only=True
        )
        limits = AdapterConfig(
            slots=max(1, len(adapters)),
            max_rank=_MAX_RANK,
            memory_bytes=_room(adapters.values()),
            base_check=base_check,  # type: ignore[arg-type]
        )
        config = EngineConfig(
            dtype="float32",  # of the losses and answers that are compared
            device=device,  # type: ignore[arg-type]
            threads=threads,
            max_model_len=max_model_len,
            block_size=_BLOCK,
            kv_blocks=_BATCH * (-(-max_model_len // _BLOCK) + 1),
            max_batch_size=_BATCH,
            max_batch_tokens=_STEP_TOKENS,
            max_queued=10**9,
        )
        self._built = build_engine(
            base.path,
            config,
            limits,
            clock=SystemClock(),
            on_chunks=self._receive,
            new_seed=lambda: 0,
            mixing=MixingParts(
                {} if part is None or part.gate is None else {_PART: part.gate},
                {} if part is None or part.router is None else {_PART: part.router},
            ),
        )
        self._part = part
        shapes = BaseShapes.of_model(
            base.path,
            base.digest,
            base.model_id,
            self._built.module_shapes,
            self._built.vocab_size,
        )
        self._slots: dict[str, Slot] = {}
        self.manifests: dict[str, AdapterManifest] = {}
        for index, (alias, folder) in enumerate(adapters.items()):
            loaded = self._built.adapters.read_adapter(folder, shapes, links_below=ANYWHERE)
            self._built.adapters.place(index, loaded)
            self._slots[alias] = Slot(index)
            self.manifests[alias] = loaded.manifest
            if part is not None:
                check_weighable(str(folder), loaded.manifest)
        self._built.engine.start()

    def __enter__(self) -> "LocalEngine":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._built.engine.stop(drain=False)

    def answers(
        self,
        asked: Sequence[Asked],
        max_tokens: int,
        progress: Progress | None = None,
        *,
        ignore_eos: bool = False,
    ) -> list[str]:
        """Generate greedy answers of at most ``max_tokens`` tokens; each prompt is one user
        message.

        With ``ignore_eos`` exactly so many: for timings.
        """
        sampling = SamplingParams(max_tokens=max_tokens, temperature=0.0, ignore_eos=ignore_eos)
        prompts = []
        for item in asked:
            ids = self._prompt(item.prompt)
            prompts.append((ids, len(ids), item.mixture))
        done = self._run(prompts, sampling, progress)
        texts: list[str] = self._tokenizer.batch_decode(
            [sequence.tokens for sequence in done], skip_special_tokens=True
        )
        return texts

    def likelihoods(
        self,
        asked: Sequence[Asked],
        completions: Sequence[str],
        progress: Progress | None = None,
    ) -> list[Likelihood]:
        """Compute the likelihood of each prompt's completion, under its mixture."""
        sampling = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0)
        prompts, lengths = [], []
        for item, completion in zip(asked, completions, strict=True):
            ids = self.completion_ids(completion)
            prompt = self._prompt(item.prompt)
            prompts.append((prompt + ids, len(prompt), item.mixture))
            lengths.append(len(ids))
        done = self._run(prompts, sampling, progress)
        return [
            Likelihood(sum(sequence.prompt_logprobs[-length:]), length)
            for sequence, length in zip(done, lengths, strict=True)
        ]

    def completion_ids(self, completion: str) -> list[int]:
        """Encode an answer with its end-of-turn token, as in training."""
        ids: list[int] = self._tokenizer(completion, add_special_tokens=False)["input_ids"]
        return [*ids, self._tokenizer.eos_token_id]

    def _prompt(self, text: str) -> list[int]:
        return chat_prompt_ids(self._tokenizer, text)

    def _run(
        self,
        prompts: Sequence[tuple[list[int], int, Weights]],
        sampling: SamplingParams,
        progress: Progress | None,
    ) -> list[_Sequence]:
        """Run ``prompts``: tokens, the number of them that are the prompt's, and the mixture."""
        names = []
        for ids, prompt_tokens, mixture in prompts:
            self._asked += 1
            name = f"local-{self._asked}"
            names.append(name)
            self._sequences[name] = _Sequence()
            request = GenerationRequest(RequestId(name), _TENANT, tuple(ids), sampling, _DECISION)
            first, *activated = self._spans(ids[:prompt_tokens], mixture)
            # Each prompt has masks of its own, so their KV is never shared.
            masked = self._part is not None and self._part.router
            namespace = name if masked else first.namespace
            mixing = self._mixing(prompt_tokens) if first.adapters else None
            self._built.engine.submit(request, namespace, first.adapters, mixing, activated)
        finished = 0
        with self._arrived:
            while finished < len(names):
                self._arrived.wait()
                now = sum(self._sequences[name].finish is not None for name in names)
                if now > finished and progress is not None:
                    progress(now, len(names))
                finished = now
        done = [self._sequences.pop(name) for name in names]
        for sequence in done:
            if sequence.error is not None:
                raise sequence.error
        return done

    def _spans(self, prompt: Sequence[int], mixture: Weights) -> list[Span]:
        """Find the spans of a prompt whose adapters apply from where it invokes them."""
        starts = [
            active_from(prompt, self.manifests[alias].invocation_tokens) for alias, _ in mixture
        ]
        slots = tuple((self._slots[alias], weight) for alias, weight in mixture)
        found = []
        for start, places in stretches(starts):
            adapters = tuple(slots[place] for place in places)
            found.append(Span(start, repr(adapters), adapters))
        return found

    def _mixing(self, prompt_tokens: int) -> Mixing | None:
        if self._part is None:
            return None
        if self._part.gate is not None:
            return Mixing(gate=_PART)
        return Mixing(router=_PART, prompt_tokens=prompt_tokens)

    def _receive(self, chunks: list[GenerationChunk]) -> None:
        with self._arrived:
            for chunk in chunks:
                sequence = self._sequences[chunk.request_id]
                sequence.tokens += chunk.token_ids
                sequence.prompt_logprobs += [item.logprob for item in chunk.prompt_logprobs]
                sequence.finish = chunk.finish_reason
                if chunk.finish_reason is FinishReason.ERROR:
                    code = chunk.error_code or EngineError.code
                    sequence.error = error_from_code(code, chunk.error_message or "no reason given")
            self._arrived.notify_all()


def _room(folders: Iterable[Path]) -> int:
    """Count the bytes of all adapters in fp32, at any precision of their files."""
    files = (folder / WEIGHTS_FILE for folder in folders)
    return _LEAST_ROOM + 4 * sum(file.stat().st_size for file in files if file.exists())
