"""The workloads that are timed, and the model shapes they run on."""

from dataclasses import dataclass

from kernels.lora.lora_batch import Mixture
from kernels.lora.sites import FusedSite


@dataclass(frozen=True, slots=True)
class KernelModelShape:
    """The sizes of a Llama-like decoder that decide its kernels' time."""

    name: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int

    def sites(self) -> tuple[FusedSite, ...]:
        """List four fused sites a layer."""
        kv = self.kv_heads * self.head_dim
        sites: list[FusedSite] = []
        for layer in range(self.layers):
            p = f"model.layers.{layer}."
            qkv = (("q", self.heads * self.head_dim), ("k", kv), ("v", kv))
            sites += (
                FusedSite(p + "qkv", self.hidden, tuple((p + n, w) for n, w in qkv)),
                FusedSite(p + "o", self.heads * self.head_dim, ((p + "o", self.hidden),)),
                FusedSite(
                    p + "gate_up",
                    self.hidden,
                    ((p + "gate", self.intermediate), (p + "up", self.intermediate)),
                ),
                FusedSite(p + "down", self.intermediate, ((p + "down", self.hidden),)),
            )
        return tuple(sites)


SMOLLM2_135M = KernelModelShape("SmolLM2-135M", 30, 576, 1536, 9, 3, 64)
TINY = KernelModelShape("tiny", 2, 36, 60, 4, 2, 9)


@dataclass(frozen=True, slots=True)
class LoraCase:
    """One batch of rows over an adapter bank."""

    name: str
    ranks: tuple[int, ...]  # of the adapters in slots 0, 1, ...
    rows: tuple[tuple[int, Mixture], ...]  # (tokens, mixture)

    @property
    def tokens(self) -> int:
        """T."""
        return sum(count for count, _ in self.rows)


@dataclass(frozen=True, slots=True)
class AttentionCase:
    """One batch of rows over a paged cache."""

    name: str
    rows: tuple[tuple[int, int], ...]  # (tokens stored before, new tokens)


def _blend(row: int, k: int, slots: int) -> Mixture:
    return tuple(((row * k + term) % slots, 1.0 / k) for term in range(k))


LORA_CASES = (
    LoraCase("decode 16, one adapter", (8,), ((1, ((0, 1.0),)),) * 16),
    LoraCase("decode 16, 16 adapters", (8,) * 16, tuple((1, ((s, 1.0),)) for s in range(16))),
    LoraCase(
        "decode 16, 16 of 64 adapters, scattered",
        (8,) * 64,
        tuple((1, ((4 * s, 1.0),)) for s in range(16)),
    ),
    LoraCase(
        "decode 16, 16 adapters, ranks 8/16/32/64",
        (8, 16, 32, 64) * 4,
        tuple((1, ((s, 1.0),)) for s in range(16)),
    ),
    LoraCase(
        "decode 16, k = 4 of 16 adapters",
        (8,) * 16,
        tuple((1, _blend(row, 4, 16)) for row in range(16)),
    ),
    LoraCase(
        "decode 16, k = 4 of the same 4",
        (8,) * 4,
        tuple((1, _blend(row, 4, 4)) for row in range(16)),
    ),
    LoraCase("decode 1, one adapter", (8,), ((1, ((0, 1.0),)),)),
    LoraCase("prefill 64, one adapter", (8,), ((64, ((0, 1.0),)),)),
    LoraCase(
        "prefill 512, 4 adapters", (8,) * 4, tuple((128, ((slot, 1.0),)) for slot in range(4))
    ),
    LoraCase(
        "prefill 128 + decode 15, 16 adapters",
        (8,) * 16,
        tuple((128 if s == 7 else 1, ((s, 1.0),)) for s in range(16)),
    ),
)

ATTENTION_CASES = (
    AttentionCase("decode 1, context 128", ((127, 1),)),
    AttentionCase("decode 16, context 128", tuple((120 + row, 1) for row in range(16))),
    AttentionCase("decode 16, context 512", tuple((504 + row, 1) for row in range(16))),
    AttentionCase("decode 16, 15 of 64 and one of 1024", ((63, 1),) * 15 + ((1023, 1),)),
    AttentionCase("prefill 128", ((0, 128),)),
    AttentionCase("prefill 256 after 256", ((256, 256),)),
)
