"""Adapters come and go: three slots for many, loads that stay, refusals by name."""

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed: slots are not tried")

from engines import compare, generate, on_demand
from safetensors.torch import load_file, save_file
from small_model import SmallModel
from vllm.lora.request import LoRARequest
from vllm_weighted_lora import mixture_request

pytestmark = pytest.mark.slow


def test_more_adapters_than_slots_in_one_call(crowded: Any, small: SmallModel) -> None:
    names = small.names
    mixtures = [
        [(names[i % 8], 0.5), (names[(i * 3 + 1) % 8], -0.75), (names[(i * 5 + 2) % 8], 1.5)]
        for i in range(24)
    ]
    mixtures = [mixture for mixture in mixtures if len({name for name, _ in mixture}) == 3]
    assert len(mixtures) > 10
    compare(crowded, small, mixtures, [on_demand(small, mixture) for mixture in mixtures])


def test_mixtures_and_vllms_own_requests_share_slots(crowded: Any, small: SmallModel) -> None:
    mixtures: list[list[tuple[str, float]]] = []
    requests: list[Any] = []
    for number, name in enumerate(small.names, start=1):
        mixtures += [[(name, 1.0)], [(name, 0.3), (small.names[number % 8], 0.6)], []]
        requests += [
            LoRARequest(name, number, small.folder(name)),
            on_demand(small, mixtures[-2]),
            None,
        ]
    compare(crowded, small, mixtures, requests)


def test_a_resident_adapter_stays_while_others_come_and_go(crowded: Any, small: SmallModel) -> None:
    (taken,) = crowded.collective_rpc("load_adapter", args=("kept", small.folder("rank8")))
    assert taken > 0
    kept = mixture_request([("kept", -0.5)])
    mixtures = [[("rank8", -0.5)]] + [[(name, 1.0)] for name in small.names] + [[("rank8", -0.5)]]
    requests = [kept, *(on_demand(small, mixture) for mixture in mixtures[1:-1]), kept]
    compare(crowded, small, mixtures, requests)
    crowded.collective_rpc("unload_adapter", args=("kept",))
    with pytest.raises(Exception, match="'kept' is not loaded"):
        crowded.collective_rpc("unload_adapter", args=("kept",))


def test_all_slots_can_be_taken_and_no_more(crowded: Any, small: SmallModel) -> None:
    for name in ("a", "b", "c"):
        crowded.collective_rpc("load_adapter", args=(name, small.folder("rank2")))
    with pytest.raises(Exception, match=r"'d' does not fit: all 3 slots .* 'a', 'b', 'c'"):
        crowded.collective_rpc("load_adapter", args=("d", small.folder("rank2")))
    with pytest.raises(Exception, match="'a' is loaded already"):
        crowded.collective_rpc("load_adapter", args=("a", small.folder("rank2")))
    compare(
        crowded, small, [[("rank2", 0.6)]], [mixture_request([("a", 0.1), ("b", 0.2), ("c", 0.3)])]
    )
    for name in ("a", "b", "c"):
        crowded.collective_rpc("unload_adapter", args=(name,))


def change(source: Path, target: Path, tensors: Any = None, **fields: Any) -> str:
    """Copy an adapter with other fields of its configuration, or other tensors."""
    target.mkdir()
    config = json.loads((source / "adapter_config.json").read_text()) | fields
    (target / "adapter_config.json").write_text(json.dumps(config))
    found = load_file(source / "adapter_model.safetensors")
    save_file(tensors(found) if tensors else found, target / "adapter_model.safetensors")
    return str(target)


def rename(old: str, new: str) -> Any:
    return lambda found: {name.replace(old, new): tensor for name, tensor in found.items()}


REFUSED = {
    "rank": ({"r": 32}, None, "its rank is 32, and max_lora_rank is 16"),
    "pattern": ({"rank_pattern": {"q_proj": 64}}, None, "its rank is 64"),
    "dora": ({"use_dora": True}, None, "use_dora"),
    "bias": ({"bias": "all"}, None, "trains biases"),
    "modules": ({"modules_to_save": ["lm_head"]}, None, "modules_to_save"),
    "kind": ({"peft_type": "LOHA"}, None, "peft_type is 'LOHA'"),
    "target": ({}, rename("q_proj", "other"), "other"),
    "layer": ({}, rename("layers.1", "layers.7"), "no place for model.layers.7"),
    "shape": ({}, lambda found: {n: t[..., :1].contiguous() for n, t in found.items()}, "inputs"),
    "nan": ({}, lambda found: {n: t * float("nan") for n, t in found.items()}, "not finite"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_mixed_is_refused_by_name(
    crowded: Any, small: SmallModel, tmp_path: Path, case: str
) -> None:
    fields, tensors, words = REFUSED[case]
    folder = change(Path(small.folder("rank8")), tmp_path / case, tensors, **fields)
    with pytest.raises(Exception, match=f"adapter '{case}' .*{words}"):
        crowded.collective_rpc("load_adapter", args=(case, folder))
    compare(crowded, small, [[("rank8", 1.0)]], [on_demand(small, [("rank8", 1.0)])])


def test_a_folder_without_files_is_refused(crowded: Any, tmp_path: Path) -> None:
    with pytest.raises(Exception, match="has no adapter_config"):
        crowded.collective_rpc("load_adapter", args=("empty", str(tmp_path)))


def test_a_request_for_what_is_not_loaded_ends_and_the_engine_lives(
    crowded: Any, small: SmallModel
) -> None:
    prompts = [small.prompt(1, 8), small.prompt(2, 8)]
    absent, fine = generate(
        crowded, prompts, [mixture_request([("absent", 1.0)]), on_demand(small, [("rank2", 1.0)])]
    )
    assert absent.outputs[0].finish_reason == "error"
    assert list(absent.outputs[0].token_ids) == []
    assert fine.outputs[0].finish_reason == "length"


def test_a_mixture_of_more_adapters_than_slots_ends(crowded: Any, small: SmallModel) -> None:
    wide = on_demand(small, [(name, 0.1) for name in small.names[:4]])
    (output,) = generate(crowded, [small.prompt(1, 8)], [wide])
    assert output.outputs[0].finish_reason == "error"
