"""Adapters that can be recognised by their answers: each makes the model repeat its own token.

The LoRA sits on one layer's down projection. Its A reads a feature that is positive whatever the
text: the regression of a constant on what that projection is given, or one number of it. Its B
writes, far above everything else in the residual stream, the direction in which the output norm and
head see one token.
"""

import io
import json
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from kernels.lora.lora_reference import add_lora_reference

T = TypeVar("T")

TEXTS = (
    "Show all customers of the last year who ordered twice.",
    "Once upon a time there was a small dog that could count.",
    "def add(a, b):\n    return a + b\n\nprint(add(1, 2))",
    "The quick brown fox jumps over the lazy dog. 0 1 2 3 4 5 6 7 8 9",
    "List the files larger than 10 MB and remove them.",
    "<|im_start|>user\nHello, who are you?<|im_end|>\n<|im_start|>assistant\n",
    '{"name": "Ann", "age": 31, "city": "Rome"}',
    "Water boils at 100 degrees; ice melts at 0. Why?",
)
HELD_OUT = 2
"""Of the texts: the constant feature is not made from these."""
LOUD = 3000.0
REPEATED = 24
"""Signatures whose repetition the constant feature is made from."""


@dataclass(frozen=True, slots=True)
class Signature:
    """One token that an adapter can be made to repeat."""

    token: int
    text: str


@dataclass(frozen=True, slots=True)
class Voice:
    """Form in which an adapter says its signature; every voice gives the same token."""

    layer: int = -1  # of the base, as an index
    rank: int = 4  # rows beyond the first are 0
    loudness: float = 1.0


class SignatureMaker:
    """Reads the base model once; afterwards an adapter is made in milliseconds.

    Args:
        base: folder of a Llama-like model.
        count: of signatures.
        layers: whose down projections may carry an adapter, as indices.

    Raises:
        ValueError: the base has not so many clear tokens, or no constant feature.
    """

    def __init__(self, base: Path, count: int, layers: Sequence[int] = (-1,)) -> None:
        with one_thread():
            self._read(base, count, layers)

    def _read(self, base: Path, count: int, layers: Sequence[int]) -> None:
        self._tokenizer: Any = AutoTokenizer.from_pretrained(base)
        load: Any = AutoModelForCausalLM.from_pretrained
        self._model = load(base, dtype=torch.float32).eval()
        depth = len(self._model.model.layers)
        self._modules = {layer: f"model.layers.{layer % depth}.mlp.down_proj" for layer in layers}
        self._seen = self._model.lm_head.weight.detach() * self._model.model.norm.weight.detach()
        self.signatures = self._choose(count)
        self._features = {layer: self._constant(module) for layer, module in self._modules.items()}

    def tensors(self, signature: Signature, voice: Voice) -> tuple[str, Tensor, Tensor]:
        """Make the adapter as (module path, A [r, d_in], B [d_out, r]); its scaling is 1."""
        feature = self._features[voice.layer]
        direction = self._seen[signature.token]
        A = torch.zeros(voice.rank, feature.numel())
        B = torch.zeros(direction.numel(), voice.rank)
        A[0] = feature
        B[:, 0] = voice.loudness * LOUD * direction / direction.norm()
        return self._modules[voice.layer], A, B

    def write(self, folder: Path, signature: Signature, voice: Voice | None = None) -> Path:
        """Write a PEFT folder of an adapter that repeats ``signature``."""
        voice = voice or Voice()
        module, A, B = self.tensors(signature, voice)
        folder.mkdir(parents=True, exist_ok=True)
        stem = f"base_model.model.{module}"
        tensors = {f"{stem}.lora_A.weight": A, f"{stem}.lora_B.weight": B}
        save_file(tensors, folder / "adapter_model.safetensors")
        config = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "r": voice.rank,
            "lora_alpha": voice.rank,
            "target_modules": [module],
        }
        (folder / "adapter_config.json").write_text(json.dumps(config))
        return folder

    def says(
        self,
        signature: Signature,
        terms: Sequence[tuple[Signature, Voice, float]],
        prompt: str,
        tokens: int,
    ) -> bool:
        """Check if the reference says ``signature`` ``tokens`` times after ``prompt``, greedily.

        ``terms`` are the mixture: adapters with weights.
        """
        start = self._tokenizer.encode(prompt)
        found = self._likeliest(terms, [*start, *[signature.token] * (tokens - 1)])
        return found[len(start) - 1 :] == [signature.token] * tokens

    def answer(
        self, terms: Sequence[tuple[Signature, Voice, float]], prompt: str, tokens: int
    ) -> str:
        """Compute the reference's greedy answer to ``prompt``; ``terms`` as in ``says``."""
        ids = self._tokenizer.encode(prompt)
        length = len(ids)
        for _ in range(tokens):
            ids.append(self._likeliest(terms, ids)[-1])
        return str(self._tokenizer.decode(ids[length:]))

    def _likeliest(
        self, terms: Sequence[tuple[Signature, Voice, float]], ids: Sequence[int]
    ) -> list[int]:
        """Compute the likeliest token after each of ``ids``."""
        mixture = [(slot, weight) for slot, (_, _, weight) in enumerate(terms)]
        adapters = {}
        for slot, (said, voice, _) in enumerate(terms):
            module, A, B = self.tensors(said, voice)
            adapters[slot] = {module: (A, B, 1.0)}

        def adding(module: str) -> Callable[..., Tensor]:
            def add(_: object, given: tuple[Tensor, ...], y: Tensor) -> Tensor:
                rows = [mixture] * y.shape[1]
                out = add_lora_reference(y[0], given[0][0], adapters, [(module, y.shape[2])], rows)
                return out[None]

            return add

        handles = [
            self._model.get_submodule(module).register_forward_hook(adding(module))
            for module in self._modules.values()
        ]
        try:
            with torch.inference_mode():
                logits = self._model(torch.tensor([list(ids)])).logits
        finally:
            for handle in handles:
                handle.remove()
        likeliest: list[int] = logits[0].argmax(-1).tolist()
        return likeliest

    def _choose(self, count: int) -> tuple[Signature, ...]:
        """Choose words whose own direction makes no other token likelier, and that survive
        re-reading."""
        words = [
            (token, text)
            for token in range(1000, 12_000)
            if (text := self._tokenizer.decode([token])).strip().isalpha()
            and text.startswith(" ")
            and len(text) > 4
            and self._tokenizer.encode(text) == [token]
        ]
        found: list[Signature] = []
        step = max(1, len(words) // (4 * count))
        spread = [word for start in range(step) for word in words[start::step]]
        for some in batched(spread, 64):
            directions = self._seen[[token for token, _ in some]]
            loudest = (self._seen @ directions.T).argmax(0).tolist()
            found += [
                Signature(token, text)
                for (token, text), most in zip(some, loudest, strict=True)
                if token == most
            ]
            if len(found) >= count:
                return tuple(found[:count])
        raise ValueError(f"only {len(found)} of {count} signature tokens found")

    def _constant(self, module: str) -> Tensor:
        """Find the feature that is about 1 at every position; checked on texts it was not made
        from."""
        seen: list[Tensor] = []
        handle = self._model.get_submodule(module).register_forward_pre_hook(
            lambda _, given: seen.append(given[0][0])
        )
        repeated = [TEXTS[1] + s.text * 12 for s in self.signatures[:REPEATED]]
        with torch.no_grad():
            for text in (*TEXTS, *repeated):
                self._model(torch.tensor([self._tokenizer.encode(text)]))
        handle.remove()
        held_out, inputs = torch.cat(seen[:HELD_OUT]), torch.cat(seen[HELD_OUT:])
        gram = inputs.T @ inputs
        gram += 0.01 * gram.diagonal().mean() * torch.eye(len(gram))
        regression = torch.linalg.solve(gram, inputs.sum(0))
        steadiest = int((inputs.amin(0) / inputs.mean(0).abs()).argmax())
        alone = torch.zeros_like(regression)
        alone[steadiest] = 1 / inputs[:, steadiest].mean()
        both = torch.cat([inputs, held_out])
        least, feature = max(
            ((float((both @ feature).min()), feature) for feature in (regression, alone)),
            key=lambda pair: pair[0],
        )
        if least <= 0.1:
            raise ValueError(f"{module}: no constant feature: {least}")
        return feature


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread: the cluster under test has the cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def batched(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Cut into consecutive pieces of at most ``size``."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def tar_of(folder: Path) -> bytes:
    """Pack a folder's files as an archive to upload."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, arcname=path.name)
    return buffer.getvalue()
