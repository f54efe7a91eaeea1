"""A merged adapter as a normal PEFT folder."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import torch
from peft import LoraConfig

from cluster.adapters.loader import HostAdapter
from cluster.errors import AdapterNotFinite
from router_service.artifacts.outputs import claim_folder, writing
from router_service.merging.merge import Method, common_base, merge
from router_service.routers.static import check_weights
from training.export import created_by, export_adapter


def export_merge(
    out: Path,
    adapters: Mapping[str, HostAdapter],
    weights: Mapping[str, float],
    method: Method,
    *,
    description: str = "",
    overwrite: bool = False,
) -> int:
    """Merge ``adapters`` (by alias, in order) and write the result; returns its bytes.

    Tensors are kept in fp32: ``cat`` loses nothing.

    Raises:
        ConfigError: a weight is too large, or ``out`` cannot be written or has a result already.
        AdapterError: the adapters do not fit each other, or the merge is not finite.
    """
    claim_folder(out, overwrite=overwrite)
    check_weights(weights)
    base_model, base_digest = common_base(adapters)
    merged = merge(list(adapters.values()), [weights[alias] for alias in adapters], method)
    ranks = {path: tensors.A.shape[0] for path, tensors in merged.items()}
    rank = Counter(ranks.values()).most_common(1)[0][0]
    patterns = {path: r for path, r in ranks.items() if r != rank}
    config = LoraConfig(
        r=rank,
        lora_alpha=rank,
        target_modules=list(merged),
        rank_pattern=patterns,
        alpha_pattern=dict(patterns),
        task_type="CAUSAL_LM",
    )
    tensors: dict[str, torch.Tensor] = {}
    for path, module in merged.items():
        stem = f"base_model.model.{path}"
        tensors[f"{stem}.lora_A.weight"] = module.A * module.scaling
        tensors[f"{stem}.lora_B.weight"] = module.B
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise AdapterNotFinite(f"{name}: not finite in the merge; lower the weights")
    manifest = {
        "format": 1,
        "base_model": base_model,
        "base_digest": base_digest,
        "description": description or _describe(weights, method),
        "merge": {
            "method": method,
            "exact": method == "cat",
            "adapters": [
                {"name": alias, "digest": adapter.manifest.digest, "weight": weights[alias]}
                for alias, adapter in adapters.items()
            ],
        },
        "created_by": created_by(),
    }
    with writing(out):
        return export_adapter(out, tensors, config, manifest, dtype=torch.float32)


def _describe(weights: Mapping[str, float], method: Method) -> str:
    terms = " + ".join(f"{weight:g} {alias}" for alias, weight in weights.items())
    return f"{method} merge: {terms}"
