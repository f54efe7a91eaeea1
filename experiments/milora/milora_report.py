"""docs/results/milora.md, written from the kept parts and from nothing else."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.engine.mixing import LAYER_MODULES
from experiments.intervals import difference_interval, mean_interval
from experiments.milora.milora_quality import METHODS

Parts = Mapping[str, dict[str, Any]]

_INTRO = """\
# MiLoRA: quality against plain LoRA, and the time of decoding

Written by `python -m experiments.milora`; do not edit. The method is arXiv 2410.18035's: one
adapter on the seven linear modules of every layer, and in each layer a router that chooses k of
them for a prompt (self-attention pooling, rational activation, mask of weight 1). The base is
SmolLM2-135M-Instruct.
"""

_COUNTS = """\
## Calls of the router

A layer's router is asked once for a new prompt, never in decode, and not at all for a repeat, on
whichever replica it lands. Tests hold it: `tests/golden/test_mixing_peft.py`,
`test_a_router_is_asked_once_per_layer_of_a_new_prompt` (the layers asked, none of them in decode or
for a repeat), and `tests/integration/test_mixing_routers.py`,
`test_a_prompts_modules_are_chosen_once_for_the_whole_cluster` (the decision's way through Redis to
another replica). The timing above counts the calls of its own requests, where it was measured.
"""

_NAMES = {"lora": "LoRA", "milora-3": "MiLoRA, k = 3", "milora-1": "MiLoRA, k = 1"}


def write_report(out: Path, parts: Parts) -> None:
    """Write both files."""
    out.mkdir(parents=True, exist_ok=True)
    document = json.dumps(parts, indent=1, sort_keys=True) + "\n"
    (out / "milora.json").write_text(document, encoding="utf-8")
    (out / "milora.md").write_text(render(parts), encoding="utf-8")


def render(parts: Parts) -> str:
    """Render the report as Markdown; results that were not measured are named as missing."""
    sections = (_quality(parts), _modules(parts), _timing(parts), _COUNTS)
    return "\n".join([_INTRO, *sections]).rstrip() + "\n"


def _runs(parts: Parts, method: str) -> dict[int, dict[str, Any]]:
    """List the runs by seed."""
    found = [parts[key] for key in sorted(parts) if key.startswith(f"quality-{method}-")]
    return {run["seed"]: run for run in found}


def _quality(parts: Parts) -> str:
    runs = {method: found for method in METHODS if (found := _runs(parts, method))}
    if not runs:
        return "## Quality\n\nNot measured.\n"
    first = next(iter(next(iter(runs.values())).values()))
    tasks = list(first["tasks"])
    lines = ["## Quality", "", *_setting(first), ""]
    lines += _sizes(runs)
    lines += [
        f"| right answers, % | {' | '.join(tasks)} | all |",
        f"|---|{'---|' * (len(tasks) + 1)}",
    ]
    if "quality-base" in parts:
        base = parts["quality-base"]["tasks"]
        cells = [f"{100 * _share(base[task]):.1f}" for task in tasks]
        cells.append(f"{100 * _share_of_all(base, tasks):.1f}")
        lines.append(f"| base alone | {' | '.join(cells)} |")
    for method, found in runs.items():
        seeds = list(found.values())
        cells = [_spread([_share(run["tasks"][task]) for run in seeds]) for task in tasks]
        cells.append(_spread([_share_of_all(run["tasks"], tasks) for run in seeds]))
        lines.append(f"| {_NAMES[method]} | {' | '.join(cells)} |")
    lines += [
        "",
        f"| nats per token of the right completion | {' | '.join(tasks)} |",
        f"|---|{'---|' * len(tasks)}",
    ]
    if "quality-base" in parts:
        base = parts["quality-base"]["tasks"]
        cells = [f"{_nats(base[task]):.3f}" for task in tasks]
        lines.append(f"| base alone | {' | '.join(cells)} |")
    for method, found in runs.items():
        cells = [
            _spread([_nats(run["tasks"][task]) for run in found.values()], scale=1, digits=3)
            for task in tasks
        ]
        lines.append(f"| {_NAMES[method]} | {' | '.join(cells)} |")
    lines += [
        "",
        "Mean and 95 % interval over seeds (Student's t). Every seed has its own training "
        "examples and initial weights; the test examples are the same for all.",
        "",
        *_verdicts(runs, tasks),
    ]
    return "\n".join([*lines, ""])


def _setting(run: dict[str, Any]) -> list[str]:
    s, examples = run["settings"], run["trained"]["examples"]
    n = {task: len(scores["right"]) for task, scores in run["tasks"].items()}
    dropped = sum(run["dropped"].values())
    return [
        f"One adapter for all tasks at once (the paper's multi-task setting): {examples['train']} "
        f"training examples of {', '.join(n)} in one file, {examples['dev']} more as dev split, "
        f"{s['steps']} steps of {s['batch_size']}, learning rate {s['learning_rate']:g}, scaling "
        f"1, rank {s['rank']}, through `braid train adapter` and `braid train milora`. The dev "
        f"loss, measured every {s['eval_every']} steps, stops a run and chooses the weights that "
        "are kept. Sizes were set by the time that there was, before a test example was scored, "
        "and not changed. One default was chosen after looking at test prompts, never at their "
        "answers: that pooled rows are normalised (below), from what untrained routers chose for "
        "24 of them.",
        "",
        f"Test examples: {', '.join(f'{count} of {task}' for task, count in n.items())}, through "
        "the serving engine. mawps is decoded greedily and right where the equation has the "
        "wanted value; in the others the likeliest completion is chosen, and the choices do not "
        "stand in the prompt: a model of this size does not learn to name one of several listed "
        "answers by its number. boolq comes without its passages, so it asks what the model "
        f"knows. Training examples of more than {s['max_train_tokens']} tokens and test examples "
        f"of more than {s['max_test_tokens']} are left out, {dropped} in the first seed.",
    ]


def _sizes(runs: Mapping[str, Mapping[int, dict[str, Any]]]) -> list[str]:
    lines = [
        "| | trained parameters | of them routers | steps kept, by seed | dev loss, by seed |",
        "|---|---|---|---|---|",
    ]
    for method, found in runs.items():
        trained = [run["trained"] for run in found.values()]
        size = trained[0]["parameters"]
        kept = ", ".join(str(t["best_step"]) for t in trained)
        losses = ", ".join(f"{t['dev_loss']:.3f}" for t in trained)
        total = (size["adapter"] + size["routers"]) / 1e6
        lines.append(
            f"| {_NAMES[method]} | {total:.2f} M | {size['routers'] / 1e6:.2f} M | "
            f"{kept} | {losses} |"
        )
    return [*lines, ""]


def _verdicts(runs: Mapping[str, Mapping[int, dict[str, Any]]], tasks: Sequence[str]) -> list[str]:
    """Compare the paper's claims with the figures."""
    lines = []
    for method in ("milora-3", "milora-1"):
        seeds = sorted(set(runs.get(method, {})) & set(runs.get("lora", {})))
        if not seeds:
            continue
        ours, theirs = (
            [[item for task in tasks for item in runs[name][seed]["tasks"][task]["right"]]
             for seed in seeds]
            for name in (method, "lora")
        )  # fmt: skip
        mean, low, high = difference_interval(ours, theirs)
        many = f"{len(seeds)} seeds" if len(seeds) > 1 else "one seed"
        line = (
            f"- **{_NAMES[method]} against LoRA, all tasks:** {100 * mean:+.1f} points "
            f"({100 * low:+.1f} to {100 * high:+.1f}, 95 %, {many} and examples drawn again). "
        )
        if low > 0:
            line += "MiLoRA is the better one here."
        elif high < 0:
            line += (
                "The paper's claim, an advantage over LoRA, does not reproduce here: LoRA is the "
                "better one."
            )
        else:
            line += (
                "The paper's claim, an advantage over LoRA (5.0 points in its multi-task table, "
                "7 billion parameters), is neither reproduced nor refuted: the interval has zero "
                "in it."
            )
        lines.append(line)
    if lines:
        lines += [
            "",
            "Why it may be so: an adapter that is trained for so few steps has not used up "
            "what seven modules can hold, so choosing among them has little to offer, and each "
            "module learns from fewer prompts; the routers start from random projections and "
            "learn through a straight-through gradient that needs longer runs; and few test "
            "examples tell only large differences. The paper trains 7 billion parameters for up "
            "to ten epochs.",
        ]
    return lines


def _modules(parts: Parts) -> str:
    lines = ["## What the routers choose", ""]
    chosen = {
        method: [run["modules"] for run in found.values()]
        for method, top_k in METHODS.items()
        if top_k is not None and (found := _runs(parts, method))
    }
    if chosen:
        lines += [
            "Over the test prompts, mean over seeds. *Same set*: share of prompts, mean over "
            "layers, that get a layer's commonest set of modules; 100 % would be a choice that "
            "does not look at the prompt. The paper sees no module above 30 % (k not told).",
            "",
            f"| | {' | '.join(LAYER_MODULES)} | same set |",
            f"|---|{'---|' * (len(LAYER_MODULES) + 1)}",
        ]
    else:
        lines.append("Not measured with trained routers.")
    for method, runs in chosen.items():
        cells = [_mean([100 * c["share"][module] for c in runs]) for module in LAYER_MODULES]
        cells.append(_mean([100 * c["commonest_mask"] for c in runs]))
        lines.append(f"| {_NAMES[method]}, % | {' | '.join(cells)} |")
    if "untrained" in parts:
        lines += ["", _normalisation(parts["untrained"])]
    return "\n".join([*lines, ""])


def _normalisation(seen: Mapping[str, Any]) -> str:
    raw, normalised = seen["raw"], seen["normalised"]
    return (
        "The paper pools the rows that enter a layer as they are. Their largest value here is "
        f"{seen['largest']:.0f}, of the first token, which is the same in every prompt; over "
        f"{seen['prompts']} test prompts an untrained router then gives its likeliest module a "
        f"probability of {raw['top_probability']:.3f} (mean over layers; 1 leaves no gradient) and "
        f"{100 * raw['same_set']:.0f} % of the prompts the same three modules. With rows divided "
        "by their root mean square, the trainer's default and what is trained here, it is "
        f"{normalised['top_probability']:.3f} and {100 * normalised['same_set']:.0f} %: gradients "
        "pass, and how far the choice follows the prompt is left to the training."
    )


def _timing(parts: Parts) -> str:
    runs = [parts[key] for key in parts if key.startswith("timing-")]
    if not runs:
        return "## Time of decoding\n\nNot measured.\n"
    first = runs[0]
    lines = [
        "## Time of decoding",
        "",
        f"{first['tokens']} tokens after {first['prompt_tokens']} of prompt, through the serving "
        f"engine, {first['threads']} threads; all adapters random, of rank {first['rank']} in "
        f"total. *experts* are {first['experts']} LoRAs of rank "
        f"{first['rank'] // first['experts']} on all seven modules, of which a router chooses "
        f"{first['top_experts']} for every token, in every layer or (as the paper's parameter "
        "counts imply for its MOELoRA) at every module of it. Median of "
        f"{first['rounds']} rounds in which the cases alternate, with quartiles; ratios are of "
        "one round, relative to plain LoRA on all seven modules.",
        "",
        "| batch | case | tokens/s | relative to LoRA | the same in CPU time | prefill ms | "
        "router calls per prompt | per decode step |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for run in sorted(runs, key=lambda run: run["batch"]):
        for name, row in run["cases"].items():
            speed = row["tokens_per_s"]
            lines.append(
                f"| {run['batch']} | {name} | {speed['median']:.1f} ({speed['low']:.1f} to "
                f"{speed['high']:.1f}) | {_quartiles(row['wall_ratio'])} | "
                f"{_quartiles(row['cpu_ratio'])} | {row['prefill_ms']:.0f} | "
                f"{row['router_calls_per_prompt']:.0f} | "
                f"{row['router_calls_per_decode_step']:.0f} |"
            )
    lines += ["", *(_against_experts(run) for run in runs), "", _load(runs)]
    return "\n".join([*lines, ""])


def _against_experts(run: dict[str, Any]) -> str:
    rows = run["cases"]
    experts = {name: row for name, row in rows.items() if name.startswith("experts")}
    told = []
    for ours in ("MiLoRA, k = 3", "MiLoRA, k = 1"):
        for name, row in experts.items():
            gain = rows[ours]["tokens_per_s"]["median"] / row["tokens_per_s"]["median"] - 1
            told.append(f"{ours} {100 * gain:+.0f} % over {name}")
    return (
        f"- Batch {run['batch']}, ratios of the medians: {'; '.join(told)}. The paper has +21.7 % "
        "over MOELoRA (7 billion parameters, one A40, where it is the number of kernels that "
        "counts)."
    )


def _load(runs: Sequence[dict[str, Any]]) -> str:
    noted = ", ".join(f"{run['load_average']:.1f}" for run in runs)
    return f"Load average of the machine meanwhile: {noted}."


def _quartiles(ratio: Mapping[str, float]) -> str:
    return f"{ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})"


def _share(scores: Mapping[str, list[float]]) -> float:
    return sum(scores["right"]) / len(scores["right"])


def _share_of_all(scores: Mapping[str, Mapping[str, list[float]]], tasks: Sequence[str]) -> float:
    """Average with every task counting alike."""
    return sum(_share(scores[task]) for task in tasks) / len(tasks)


def _nats(scores: Mapping[str, list[float]]) -> float:
    return sum(scores["nats"]) / sum(scores["tokens"])


def _mean(values: Sequence[float]) -> str:
    return f"{sum(values) / len(values):.1f}"


def _spread(values: Sequence[float], scale: float = 100, digits: int = 1) -> str:
    mean, half = mean_interval(values)
    if half is None:
        return f"{scale * mean:.{digits}f} (one seed)"
    return f"{scale * mean:.{digits}f} ± {scale * half:.{digits}f}"
