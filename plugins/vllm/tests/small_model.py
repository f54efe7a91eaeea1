"""Writes a small random llama and LoRA adapters, and computes mixtures by merging weights.

The oracle shares no code with the plugin: it adds ``weight * alpha / rank * B @ A`` to the matrices
of a transformers model and decodes greedily without a cache.
"""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

Mixture = Sequence[tuple[str, float]]
VOCABULARY = 256
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
LAYERS = 2


@dataclass(frozen=True)
class Answer:
    """Greedy tokens and their log-probabilities."""

    tokens: list[int]
    logprobs: list[float]


class Adapter:
    """A random adapter: its matrices by module, with the factor that PEFT applies."""

    def __init__(
        self,
        base: Any,
        seed: int,
        rank: int,
        alpha: float,
        targets: Iterable[str],
        *,
        ranks: dict[str, int] | None = None,
        alphas: dict[str, float] | None = None,
        rslora: bool = False,
    ) -> None:
        draw = torch.Generator().manual_seed(seed)
        self.targets = list(targets)
        self.config: dict[str, Any] = {
            "peft_type": "LORA",
            "r": rank,
            "lora_alpha": alpha,
            "target_modules": self.targets,
            "rank_pattern": ranks or {},
            "alpha_pattern": alphas or {},
            "use_rslora": rslora,
            "bias": "none",
        }
        self.parts: dict[str, tuple[torch.Tensor, torch.Tensor, float]] = {}
        for name, module in base.named_modules():
            last = name.rsplit(".", 1)[-1]
            if last not in self.targets:
                continue
            r = (ranks or {}).get(last, rank)
            a = (alphas or {}).get(last, alpha)
            outputs, inputs = module.weight.shape
            self.parts[name] = (
                torch.randn(r, inputs, generator=draw) * 0.1,
                torch.randn(outputs, r, generator=draw) * 0.1,
                a / math.sqrt(r) if rslora else a / r,
            )

    def save(self, folder: Path) -> None:
        """Write it as PEFT does."""
        folder.mkdir(parents=True)
        (folder / "adapter_config.json").write_text(json.dumps(self.config))
        tensors = {}
        for name, (a, b, _) in self.parts.items():
            tensors[f"base_model.model.{name}.lora_A.weight"] = a.contiguous()
            tensors[f"base_model.model.{name}.lora_B.weight"] = b.contiguous()
        save_file(tensors, folder / "adapter_model.safetensors")


class SmallModel:
    """The model's folder, its adapters', and the oracle."""

    def __init__(self, folder: Path, base: Any, adapters: dict[str, Adapter]) -> None:
        self.model = str(folder / "model")
        self.adapters = folder / "adapters"
        self.names = list(adapters)
        self._base = base
        self._made = adapters

    @classmethod
    def write(cls, folder: Path) -> "SmallModel":
        """Write model, tokenizer and adapters below a folder."""
        from tokenizers import Tokenizer, models, pre_tokenizers
        from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=128,
            intermediate_size=192,
            num_hidden_layers=LAYERS,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=64,
            max_position_embeddings=512,
            tie_word_embeddings=False,
            initializer_range=0.1,
            eos_token_id=0,
            bos_token_id=0,
        )
        base = LlamaForCausalLM(config).eval()
        base.save_pretrained(folder / "model")
        words = Tokenizer(models.WordLevel({f"t{i}": i for i in range(VOCABULARY)}, "t0"))
        words.pre_tokenizer = pre_tokenizers.Whitespace()
        PreTrainedTokenizerFast(tokenizer_object=words, eos_token="t0").save_pretrained(
            folder / "model"
        )
        every = ATTENTION + MLP
        adapters = {
            "rank2": Adapter(base, 1, 2, 4, every),
            "rank4": Adapter(base, 2, 4, 8, ("q_proj", "v_proj")),
            "rank8": Adapter(base, 3, 8, 8, every),
            "rank16": Adapter(base, 4, 16, 16, MLP),
            "patterns": Adapter(
                base, 5, 4, 4, every, ranks={"q_proj": 3, "down_proj": 7}, alphas={"o_proj": 9.0}
            ),
            "rslora": Adapter(base, 6, 8, 2, ATTENTION, rslora=True),
            "rank1": Adapter(base, 7, 1, 1, every),
            "head": Adapter(base, 8, 5, 10, ("lm_head", "gate_proj")),
        }
        made = cls(folder, base, adapters)
        for name, adapter in adapters.items():
            adapter.save(made.adapters / name)
        return made

    def folder(self, name: str) -> str:
        """Return an adapter's folder."""
        return str(self.adapters / name)

    def add(self, name: str, **options: Any) -> Adapter:
        """Make and write one more adapter."""
        adapter = Adapter(self._base, **options)
        adapter.save(self.adapters / name)
        self._made[name] = adapter
        return adapter

    def prompt(self, seed: int, length: int) -> list[int]:
        """Return random tokens."""
        draw = torch.Generator().manual_seed(1000 + seed)
        return torch.randint(1, VOCABULARY, (length,), generator=draw).tolist()

    def answer(self, prompt: list[int], mixture: Mixture, count: int) -> Answer:
        """Decode greedily with merged weights."""
        modules = dict(self._base.named_modules())
        kept: dict[str, torch.Tensor] = {}
        with torch.no_grad():
            for adapter, weight in mixture:
                for name, (a, b, scale) in self._made[adapter].parts.items():
                    kept.setdefault(name, modules[name].weight.clone())
                    modules[name].weight += weight * scale * (b @ a)
            tokens, logprobs = [], []
            row = torch.tensor([prompt])
            for _ in range(count):
                scores = self._base(row).logits[0, -1].log_softmax(-1)
                token = int(scores.argmax())
                tokens.append(token)
                logprobs.append(float(scores[token]))
                row = torch.cat([row, torch.tensor([[token]])], dim=1)
            for name, weight in kept.items():
                modules[name].weight.copy_(weight)
        return Answer(tokens, logprobs)
