"""Adapters that can be told apart by what they say: each makes the model repeat its own token.

The LoRA sits on the last layer's down projection. Its A reads a feature that is positive whatever
the text: the regression of a constant on what that projection is given. Its B writes, far above
everything else in the residual stream, the direction in which the output norm and head see one
token.
"""

import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

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
LOUD = 3000.0


@dataclass(frozen=True)
class Signature:
    """One token that an adapter can be made to repeat."""

    token: int
    text: str


class SignatureMaker:
    """Reads the base model once; afterwards an adapter is made in milliseconds."""

    def __init__(self, base: Path, count: int) -> None:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # the cluster under test has the cores
        try:
            self._read(base, count)
        finally:
            torch.set_num_threads(threads)

    def _read(self, base: Path, count: int) -> None:
        tokenizer = AutoTokenizer.from_pretrained(base)
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
        last = len(model.model.layers) - 1
        self._module = f"model.layers.{last}.mlp.down_proj"
        self._seen = model.lm_head.weight.detach() * model.model.norm.weight.detach()
        self.signatures = self._choose(tokenizer, count)
        self._feature = self._constant(model, tokenizer)

    def write(self, folder: Path, signature: Signature, *, rank: int = 4) -> Path:
        """A PEFT folder of an adapter that repeats ``signature``."""
        direction = self._seen[signature.token]
        A = torch.zeros(rank, self._feature.numel())
        B = torch.zeros(direction.numel(), rank)
        A[0] = self._feature
        B[:, 0] = LOUD * direction / direction.norm()
        folder.mkdir(parents=True, exist_ok=True)
        stem = f"base_model.model.{self._module}"
        tensors = {f"{stem}.lora_A.weight": A, f"{stem}.lora_B.weight": B}
        save_file(tensors, folder / "adapter_model.safetensors")
        config = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "r": rank,
            "lora_alpha": rank,
            "target_modules": [self._module],
        }
        (folder / "adapter_config.json").write_text(json.dumps(config))
        return folder

    def _choose(self, tokenizer, count: int) -> tuple[Signature, ...]:
        """Words whose own direction makes no other token likelier, and that survive re-reading."""
        words = [
            (token, text)
            for token in range(1000, 12_000)
            if (text := tokenizer.decode([token])).strip().isalpha()
            and text.startswith(" ")
            and len(text) > 4
            and tokenizer.encode(text) == [token]
        ]
        found = []
        step = max(1, len(words) // (4 * count))
        for token, text in (word for start in range(step) for word in words[start::step]):
            if int((self._seen @ self._seen[token]).argmax()) == token:
                found.append(Signature(token, text))
            if len(found) == count:
                return tuple(found)
        raise AssertionError(f"only {len(found)} of {count} signature tokens found")

    def _constant(self, model, tokenizer) -> torch.Tensor:
        """The feature that is about 1 at every position; checked on texts it was not made from."""
        seen: list[torch.Tensor] = []
        module = model.get_submodule(self._module)
        handle = module.register_forward_pre_hook(lambda _, given: seen.append(given[0][0]))
        repeated = [TEXTS[1] + s.text * 12 for s in self.signatures]
        with torch.no_grad():
            for text in (*TEXTS, *repeated):
                model(torch.tensor([tokenizer.encode(text)]))
        handle.remove()
        held_out = torch.cat(seen[:2])
        inputs = torch.cat(seen[2:])
        gram = inputs.T @ inputs
        gram += 0.01 * gram.diagonal().mean() * torch.eye(len(gram))
        feature = torch.linalg.solve(gram, inputs.sum(0))
        least = min(float((inputs @ feature).min()), float((held_out @ feature).min()))
        assert least > 0.1, f"no constant feature: {least}"
        return feature


def tar_of(folder: Path) -> bytes:
    """A folder's files as an archive to upload."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, arcname=path.name)
    return buffer.getvalue()
