"""The least time that a step can take on a machine of a given GEMM peak and read bandwidth.

A roofline: any implementation must read every byte that a step needs once from memory and do every
multiplication, and both may happen at once, so

    t >= max(bytes / bandwidth, FLOPs / peak)

Bytes of a decode step of B requests are the linears' weights (the head is one of them, an
embedding that is only looked up is not), each *distinct* adapter in use once, and the keys and
values of all contexts. FLOPs are 2 B for each weight, 2 for each element of every adapter that a
request uses, and 4 for each (query head, context token, dimension). So SmolLM2-135M in fp32 at
batch 16 has 16 * 2 * 134.5 M = 4.3 GFLOP and 538 MB of weights. At a peak of 132 GFLOP/s and
28 GB/s that is 33 ms and 19 ms: compute decides, 16 / 33 ms = 485 tokens/s. At 320 GFLOP/s and
29 GB/s it is 13 ms and 19 ms: memory decides, and 16 adapters of rank 8 (156 MB in fp32) raise the
bound itself by 29 %.

A cache that keeps part of the weights from step to step can beat the bytes' term; norms,
activations and sampling are left out, so the bound is never too high because of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.engine.cases import Mixture


@dataclass(frozen=True, slots=True)
class ModelSizes:
    """Sizes that decide the bytes and FLOPs of a step."""

    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    linear_weights: int  # elements of all linears, without the head
    head_weights: int  # elements of the output head
    adapter_weights: int  # elements of one adapter, A and B of all modules
    weight_bytes: float  # per element of a linear
    value_bytes: int  # per element of adapters, keys and values


@dataclass(frozen=True, slots=True)
class Machine:
    """Measured peaks of the machine, with the threads of the run."""

    gemm_flops: float  # FLOP/s, in the arithmetic of adapters and attention
    linear_flops: float  # FLOP/s, in that of the linears: other than the former when quantised
    bandwidth: float  # bytes/s read


@dataclass(frozen=True, slots=True)
class RooflineBound:
    """The two terms of a step, and the larger one."""

    nbytes: float
    flops: float
    bytes_s: float
    flops_s: float

    @property
    def seconds(self) -> float:
        """Least time of the step."""
        return max(self.bytes_s, self.flops_s)


def sizes_of(
    config: Mapping[str, int],
    modules: Mapping[str, tuple[int, int]],
    rank: int,
    *,
    weight_bytes: float,
    value_bytes: int,
) -> ModelSizes:
    """Read the sizes of a model whose adapters have ``rank`` at every module.

    Args:
        config: of the model: vocab_size, hidden_size, num_hidden_layers, num_attention_heads,
            num_key_value_heads and head_dim.
        modules: path -> (d_out, d_in) of the linears, the head not among them.
        rank: of every adapter at every module.
        weight_bytes: of an element of a linear: 4 in fp32, 1 in int8.
        value_bytes: of an element of adapters, keys and values.
    """
    return ModelSizes(
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        kv_heads=config["num_key_value_heads"],
        head_dim=config["head_dim"],
        linear_weights=sum(d_out * d_in for d_out, d_in in modules.values()),
        head_weights=config["vocab_size"] * config["hidden_size"],
        adapter_weights=sum(rank * (d_out + d_in) for d_out, d_in in modules.values()),
        weight_bytes=weight_bytes,
        value_bytes=value_bytes,
    )


def step_bound(
    sizes: ModelSizes,
    machine: Machine,
    mixtures: Sequence[Mixture],
    *,
    tokens: int,
    context: float,
) -> RooflineBound:
    """Compute the least time of a step that computes ``tokens`` tokens of each request and samples
    one.

    Args:
        sizes: of the model.
        machine: its peak and bandwidth.
        mixtures: one per request.
        tokens: of each request in this step: 1 in decode, the prompt's in prefill.
        context: tokens stored before the step, the mean over the step's requests.
    """
    batch = len(mixtures)
    distinct = len({adapter for mixture in mixtures for adapter, _ in mixture})
    terms = sum(len(mixture) for mixture in mixtures)
    # A token sees the stored ones, itself, and the tokens before it in its own step.
    seen = batch * tokens * (context + (tokens + 1) / 2)
    kv_token = 2 * sizes.kv_heads * sizes.head_dim * sizes.layers
    nbytes = (
        (sizes.linear_weights + sizes.head_weights) * sizes.weight_bytes
        + distinct * sizes.adapter_weights * sizes.value_bytes
        + batch * context * kv_token * sizes.value_bytes
    )
    linear = 2 * batch * (tokens * sizes.linear_weights + sizes.head_weights)
    small = (
        2 * terms * tokens * sizes.adapter_weights
        + 4 * seen * sizes.heads * sizes.head_dim * sizes.layers
    )
    return RooflineBound(
        nbytes=nbytes,
        flops=linear + small,
        bytes_s=nbytes / machine.bandwidth,
        flops_s=linear / machine.linear_flops + small / machine.gemm_flops,
    )


def generation_bound(
    sizes: ModelSizes,
    machine: Machine,
    mixtures: Sequence[Mixture],
    *,
    prompt: int,
    output: int,
    together: int,
) -> float:
    """Compute the least seconds in which a batch can prefill ``prompt`` and generate ``output``
    tokens each.

    The first token comes from the prefill, which takes ``together`` prompts a step; each further
    one from a decode step.
    """
    groups = [mixtures[i : i + together] for i in range(0, len(mixtures), together)]
    prefill = sum(
        step_bound(sizes, machine, group, tokens=prompt, context=0).seconds for group in groups
    )
    middle = prompt + (output - 1) / 2
    decode = step_bound(sizes, machine, mixtures, tokens=1, context=middle).seconds
    return prefill + (output - 1) * decode
