"""PiSSA, OLoRA, CorDA and LoRA-GA as plain LoRA.

These initialisations subtract scale B0 A0 from the base's weight, and train B A on the rest.
Relative to the whole weight that is scale (B A - B0 A0), a LoRA of twice the rank: A over A0, and
B next to -B0. PEFT calls this the weight conversion, and writes the same tensors.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import torch
from peft import LoraConfig

from cluster.adapters.format.chat_template import TEMPLATE_FILE
from cluster.adapters.format.manifest import ANYWHERE, AdapterFiles, read_adapter_files, read_all
from cluster.adapters.loader import LoraTensors, tensors_of
from cluster.adapters.validation.adapter_checks import check_all_finite
from cluster.errors import AdapterMalformed, AdapterUnsupported
from router_service.artifacts.outputs import writing
from training.export import created_by, export_adapter


def convert_adapter(trained: Path, initial: Path, out: Path) -> tuple[int, int]:
    """Write ``trained`` as a plain LoRA; its bytes and its largest rank.

    Args:
        trained: folder of the adapter.
        initial: the same adapter as it was before training.
        out: folder to write, claimed by the caller.

    Raises:
        AdapterError: a folder cannot be read, or the two are not one adapter.
        ConfigError: ``out`` cannot be written.
    """
    files, before = _read(trained), _read(initial)
    if not files.config.initial:
        raise AdapterUnsupported(
            f"{trained}: init_lora_weights: expected pissa, olora, corda or lora_ga, found a plain "
            "LoRA, which is served as it is"
        )
    _check_same(files, before)
    tensors = convert(tensors_of(files, read_all(files)), tensors_of(before, read_all(before)))
    manifest = {
        "format": 1,
        "base_model": files.config.base_model,
        "base_digest": files.labels.base_digest,
        "description": files.labels.description,
        "tags": list(files.labels.tags),
        "converted": {"from": files.config.initial},
        "created_by": created_by(),
    }
    ranks = {path: module.A.shape[0] for path, module in tensors.items()}
    with writing(out):
        nbytes = export_adapter(
            out, _named(tensors), _config(tensors, ranks), manifest, dtype=torch.float32
        )
        if files.chat_template is not None:
            (out / TEMPLATE_FILE).write_text(files.chat_template)
    return nbytes, max(ranks.values())


def convert(
    trained: Mapping[str, LoraTensors], initial: Mapping[str, LoraTensors]
) -> dict[str, LoraTensors]:
    """Compute what has been learnt relative to the original base, in fp32, by module path."""
    return {
        path: LoraTensors(
            torch.cat([module.A.float(), initial[path].A.float()], dim=0),
            torch.cat([module.B.float(), -initial[path].B.float()], dim=1),
            module.scaling,
        )
        for path, module in trained.items()
    }


def _read(folder: Path) -> AdapterFiles:
    files = read_adapter_files(folder, links_below=ANYWHERE, to_convert=True)
    if files.vocabulary:
        raise AdapterUnsupported(
            f"{files.weights}: {next(iter(files.vocabulary))}: embeddings are not converted; save "
            "the adapter with save_embedding_layers=False"
        )
    check_all_finite(files, read_all(files))
    return files


def _check_same(trained: AdapterFiles, initial: AdapterFiles) -> None:
    """Raise AdapterMalformed unless modules, shapes and scalings are the same."""
    for path in sorted(trained.modules.keys() | initial.modules.keys()):
        found = [
            (files.modules[path].A.shape, files.modules[path].B.shape, files.scaling(path))
            for files in (trained, initial)
            if path in files.modules
        ]
        if len(found) != 2 or found[0] != found[1]:
            raise AdapterMalformed(
                f"{initial.weights.parent}: {path}: expected the modules, ranks and alphas of "
                f"{trained.weights.parent}, found others; give that adapter as it was before "
                "training"
            )


def _config(tensors: Mapping[str, LoraTensors], ranks: Mapping[str, int]) -> LoraConfig:
    alphas = {path: module.scaling * ranks[path] for path, module in tensors.items()}
    rank = Counter(ranks.values()).most_common(1)[0][0]
    alpha = Counter(alphas.values()).most_common(1)[0][0]
    return LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type] # PEFT divides it, whole or not
        target_modules=list(tensors),
        rank_pattern={path: r for path, r in ranks.items() if r != rank},
        alpha_pattern={path: a for path, a in alphas.items() if a != alpha},
        task_type="CAUSAL_LM",
    )


def _named(tensors: Mapping[str, LoraTensors]) -> dict[str, torch.Tensor]:
    named = {}
    for path, module in tensors.items():
        named[f"base_model.model.{path}.lora_A.weight"] = module.A
        named[f"base_model.model.{path}.lora_B.weight"] = module.B
    return named
