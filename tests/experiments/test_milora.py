"""The MiLoRA experiment's own logic: tasks, the routers it counts, the baseline, the report."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.base_model.source import ModelLocation
from cluster.config import AdapterConfig, EngineConfig
from cluster.domain.ids import Slot
from cluster.engine.mixing import Mixing
from cluster.engine.mixing_parts import MixingParts
from experiments.milora.decoding import TimedEngine
from experiments.milora.experts import random_token_router
from experiments.milora.milora_report import render, write_report
from experiments.milora.milora_tasks import load_task, reworded, write_mixed
from experiments.milora.milora_timing import measure_decode, random_prompt_router
from experiments.milora.recorded import RecordedRouter
from training.evaluation.records import Record
from training.jsonl import read_examples

ARC = (
    "Please choose the correct answer to the question: Why?\nReally: why?\n\n"
    "Answer1: one. Answer2: two words Answer3: three\n\nAnswer format: answer1/answer2/answer3"
)
PIQA = (
    "Please choose the correct solution to the question: open a jar\n\n"
    "Solution1: turn it.\n\nSolution2: eat it.\n\nAnswer format: solution1/solution2"
)
BOOLQ = (
    "Please answer the following question with true or false, question: is it so?\n\n"
    "Answer format: true/false"
)


def test_choices_leave_the_prompt() -> None:
    arc = reworded("arc_easy", Record(ARC, "the correct answer is answer2", "answer2"))
    assert arc == Record("Why?\nReally: why?", "two words", None, ("one.", "two words", "three"))
    piqa = reworded("piqa", Record(PIQA, "the correct answer is solution1", "solution1"))
    assert piqa == Record("open a jar", "turn it.", None, ("turn it.", "eat it."))
    boolq = reworded("boolq", Record(BOOLQ, "the correct answer is false", "false"))
    assert boolq == Record("True or false: is it so?", "false", None, ("true", "false"))
    assert reworded("mawps", Record("2 and 2 ?", "X=2+2", "4.0")) == Record("2 and 2 ?", "X=2+2", 4)


@pytest.mark.parametrize(
    ("name", "record"),
    [
        ("arc_easy", Record(ARC, "c", "answer4")),
        ("arc_easy", Record(ARC, "c", "answer0")),
        ("arc_easy", Record(ARC.replace("three", "one."), "c", "answer1")),
        ("arc_easy", Record("Why?", "c", "answer1")),
        ("boolq", Record(BOOLQ, "c", "maybe")),
        ("mawps", Record("2 and 2 ?", "X", "four")),
    ],
)
def test_what_cannot_be_told_apart_is_left_out(name: str, record: Record) -> None:
    assert reworded(name, record) is None


def test_test_examples_are_the_same_for_every_seed(tmp_path: Path) -> None:
    (tmp_path / "mawps").mkdir()
    lines = [
        {"prompt": f"{i} and 2 ?" + " more" * (i % 3), "completion": f"X={i}+2", "answer": i + 2.0}
        for i in range(200)
    ]
    path = tmp_path / "mawps" / "train.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines))

    def load(seed: int) -> Any:
        return load_task(
            tmp_path, "mawps", n_train=20, n_test=10, seed=seed,
            tokens=lambda record: len(record.prompt.split()), max_train_tokens=4, max_test_tokens=5,
        )  # fmt: skip

    first, again, other = load(0), load(0), load(1)
    assert first == again
    assert first.test == other.test
    assert first.train != other.train
    assert first.metric == "value"
    assert len(first.train) == 20
    assert len(first.test) == 10
    assert all(len(record.prompt.split()) <= 4 for record in first.train)
    assert any(len(record.prompt.split()) == 5 for record in first.test)
    assert not {r.prompt for r in first.train} & {r.prompt for r in first.test}
    assert first.dropped > 0
    write_mixed([first], tmp_path / "mixed.jsonl", 0)
    examples = read_examples(tmp_path / "mixed.jsonl")
    assert {(e.prompt, e.completion) for e in examples} == {
        (r.prompt, r.completion) for r in first.train
    }


def test_what_a_router_chose_is_counted() -> None:
    router = RecordedRouter(random_prompt_router(2, 8, 3, torch.Generator().manual_seed(0)))
    assert router.to(torch.device("cpu")) is router
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        for layer in range(2):
            assert router.masks(layer, torch.randn(5, 8, generator=generator)).sum() == 3
    summary = router.summary()
    assert summary["router_calls"] == 40
    assert sum(summary["share"].values()) == pytest.approx(1)
    assert 1 < summary["masks_per_layer"] <= 20
    assert 0.05 <= summary["commonest_mask"] < 1


def test_experts_are_weighed_per_token() -> None:
    widths = {"": 8}
    router = random_token_router(3, widths, 4, 2, torch.Generator().manual_seed(0))
    assert (router.num_layers, router.hidden_size, router.num_adapters) == (3, 8, 4)
    assert router.resolution == "layer"
    x = torch.randn(6, 8, generator=torch.Generator().manual_seed(1))
    weights = router.weights(1, None, x)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(6))
    assert (weights != 0).sum(dim=1).tolist() == [2] * 6
    torch.testing.assert_close(router.weights(1, None, x[2:3]), weights[2:3])
    assert not torch.equal(router.weights(2, None, x), weights)
    assert router.calls == 3
    by_module = {"q_proj": 8, "down_proj": 12}
    router = random_token_router(1, by_module, 4, 1, torch.Generator().manual_seed(0))
    assert router.resolution == "site"
    assert router.weights(0, 6, torch.ones(2, 12)).tolist()[0].count(1.0) == 1


def test_router_calls_of_timed_batches(tiny_model: Callable[..., Path]) -> None:
    config = EngineConfig(
        block_size=4, kv_blocks=64, max_model_len=32, max_batch_size=3, max_batch_tokens=24,
        prefix_cache=False,
    )  # fmt: skip
    parts = MixingParts()
    engine = TimedEngine(tiny_model("llama"), config, AdapterConfig(slots=3), parts)
    generator = torch.Generator().manual_seed(0)
    for slot in range(3):
        engine.write(Slot(slot), 2, generator)
    layers, width = engine.num_layers, engine.hidden_size
    prompts = RecordedRouter(random_prompt_router(layers, width, 3, generator))
    per_layer = random_token_router(layers, {"": width}, 2, 1, generator)
    per_module = random_token_router(layers, engine.input_widths, 2, 1, generator)
    parts.routers["prompts"] = prompts
    parts.gates.update(layer=per_layer, module=per_module)
    experts = ((Slot(1), 1.0), (Slot(2), 1.0))
    with engine:
        plain = engine.decode(3, 8, 5, ((Slot(0), 1.0),), None, lambda: 0)
        milora = engine.decode(
            3, 8, 5, ((Slot(0), 1.0),), Mixing(router="prompts"), lambda: prompts.calls
        )
        by_layer = engine.decode(3, 8, 5, experts, Mixing(gate="layer"), lambda: per_layer.calls)
        by_module = engine.decode(3, 8, 5, experts, Mixing(gate="module"), lambda: per_module.calls)
    for timed in (plain, milora, by_layer, by_module):
        assert 0 < timed.decoded <= 12
        assert timed.wall_s > 0
    assert plain.prefill_calls == plain.decode_calls == 0
    assert milora.prefill_calls == 3 * layers
    assert milora.decode_calls == 0
    steps = by_layer.decode_calls // layers
    assert 0 < steps <= 5
    assert by_layer.decode_calls == steps * layers
    assert by_module.decode_calls % (7 * layers) == 0


def test_all_cases_are_timed(tiny_model: Callable[..., Path]) -> None:
    base = ModelLocation(tiny_model("llama"), "tiny", "digest")
    said: list[str] = []
    timing = measure_decode(
        base, batch=2, tokens=4, rounds=2, rank=4, experts=4, threads=0, say=said.append
    )
    layers = timing["layers"]
    calls = {
        name: (case["router_calls_per_prompt"], case["router_calls_per_decode_step"])
        for name, case in timing["cases"].items()
    }
    per_module = calls.pop("experts, a router per module")
    per_layer = calls.pop("experts, a router per layer")
    assert calls == {
        "base": (0, 0),
        "plain LoRA": (0, 0),
        "MiLoRA, k = 3": (layers, 0),
        "MiLoRA, k = 1": (layers, 0),
    }
    assert per_layer[1] == layers
    assert per_module[1] == 7 * layers
    assert timing["cases"]["plain LoRA"]["wall_ratio"]["median"] == 1
    assert len(said) == 3
    assert "Not measured." not in render({"timing-2": timing}).partition("## Time")[2]


def _run(method: str, seed: int, right: list[int]) -> dict[str, Any]:
    scores = {"right": right, "nats": [2.0] * len(right), "tokens": [4] * len(right)}
    size = {"adapter": 4_884_480, "routers": 0 if method == "lora" else 138_600}
    share = dict.fromkeys(
        ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"), 1 / 7
    )
    return {
        "method": method, "seed": seed, "dropped": {"boolq": 1, "mawps": 2},
        "tasks": {"boolq": scores, "mawps": scores},
        "settings": {
            "steps": 50, "batch_size": 8, "learning_rate": 0.002, "rank": 16, "eval_every": 15,
            "max_train_tokens": 80, "max_test_tokens": 160,
        },
        "trained": {
            "parameters": size, "best_step": 45, "dev_loss": 1.5,
            "examples": {"train": 426, "dev": 24},
        },
        "modules": {"share": share, "commonest_mask": 0.5},
    }  # fmt: skip


def test_the_report_says_what_was_not_measured(tmp_path: Path) -> None:
    assert render({}).count("Not measured") == 3
    speed = {"low": 9.0, "median": 10.0, "high": 11.0}
    row = {
        "tokens_per_s": speed, "wall_ratio": {"low": 0.9, "median": 1.0, "high": 1.1},
        "cpu_ratio": {"low": 0.9, "median": 1.0, "high": 1.1}, "prefill_ms": 50.0,
        "router_calls_per_prompt": 30.0, "router_calls_per_decode_step": 0.0,
    }  # fmt: skip
    slow = row | {"tokens_per_s": {"low": 7.0, "median": 8.0, "high": 9.0}}
    timing = {
        "batch": 1, "tokens": 64, "prompt_tokens": 32, "threads": 2, "rank": 32, "experts": 8,
        "top_experts": 2, "rounds": 9, "load_average": 0.5,
        "cases": {"MiLoRA, k = 3": row, "MiLoRA, k = 1": row, "experts, a router per layer": slow},
    }  # fmt: skip
    parts = {
        "quality-lora-0": _run("lora", 0, [0, 0, 0, 1]),
        "quality-lora-1": _run("lora", 1, [0, 0, 0, 1]),
        "quality-milora-3-0": _run("milora-3", 0, [1, 1, 1, 1]),
        "quality-milora-3-1": _run("milora-3", 1, [1, 1, 1, 1]),
        "timing-1": timing,
        "untrained": {
            "prompts": 48, "largest": 24891.2,
            "raw": {"top_probability": 0.98, "same_set": 1.0},
            "normalised": {"top_probability": 0.2, "same_set": 0.75},
        },
    }  # fmt: skip
    write_report(tmp_path, parts)
    page = (tmp_path / "milora.md").read_text()
    assert "Not measured" not in page
    assert "| MiLoRA, k = 3 | 100.0 ± 0.0 | 100.0 ± 0.0 | 100.0 ± 0.0 |" in page
    assert "| LoRA | 0.500 ± 0.000 | 0.500 ± 0.000 |" in page
    assert "| MiLoRA, k = 3 | 5.02 M | 0.14 M | 45, 45 | 1.500, 1.500 |" in page
    assert "+75.0 points" in page
    assert "better one here" in page
    assert "MiLoRA, k = 3 +25 % over experts, a router per layer" in page
    assert "probability of 0.980" in page
    assert "it is 0.200 and 75 %" in " ".join(page.split())
    assert json.loads((tmp_path / "milora.json").read_text()) == parts
    parts["quality-milora-3-1"] = _run("milora-3", 1, [0, 0, 0, 0])
    assert "neither reproduced nor refuted" in render(parts)
    parts["quality-milora-3-0"] = _run("milora-3", 0, [0, 0, 0, 0])
    assert "does not reproduce here" not in render(parts)
