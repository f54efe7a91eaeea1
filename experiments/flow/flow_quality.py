"""Answers under either adapter, their average, the searched mixture, and the gate."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster.base_model.source import ModelLocation
from experiments.answers import KeptAnswers
from experiments.flow.flow_tasks import Composite
from experiments.flow.training import Say
from router_service.artifacts.router_artifact import adapter_versions, read_manifest
from router_service.flow.flow_artifact import load_gate
from router_service.routers.kind import EnginePart
from training.evaluation.answer_metrics import has_value, is_exact
from training.evaluation.evaluation_run import SPARE_TOKENS, longest_sequence
from training.evaluation.local_engine import Asked, LocalEngine, Weights
from training.evaluation.records import Record

WAYS = ("skill", "format", "average", "searched", "flow")
"""Compared ways; the first three have no seed."""

MAX_TOKENS = 40
"""Of an answer; hardly any wanted one has more, and those count as wrong for every way."""


def static_ways(task: Composite, searched: Weights) -> dict[str, Weights]:
    """Make the mixtures that need no gate."""
    return {
        "skill": ((task.skill, 1.0),),
        "format": ((task.format, 1.0),),
        "average": ((task.format, 0.5), (task.skill, 0.5)),
        "searched": tuple((alias, weight) for alias, weight in searched if weight),
    }


def measure_quality(
    base: ModelLocation,
    task: Composite,
    adapters: dict[str, Path],
    tests: Sequence[Record],
    searched: Weights,
    gate: Path,
    *,
    threads: int,
    kept: Path,
    say: Say,
) -> dict[str, Any]:
    """Count the tests that each way answers right, decoded greedily; answers are kept."""
    static = static_ways(task, searched)
    answered: dict[str, list[str]] = {}
    limit = MAX_TOKENS + SPARE_TOKENS
    asked = [Asked(record.prompt, mixture) for mixture in static.values() for record in tests]
    plain = _decoded(base, adapters, asked, limit, None, "", threads, kept, tests, say)
    for way, mixture in static.items():
        answered[way] = [plain.get(Asked(record.prompt, mixture), limit) for record in tests]
    part, version = gate_part(gate, base)
    both: Weights = ((task.format, 1.0), (task.skill, 1.0))
    asked = [Asked(record.prompt, both) for record in tests]
    gated = _decoded(base, adapters, asked, limit, part, version, threads, kept, tests, say)
    answered["flow"] = [gated.get(item, limit) for item in asked]
    right = {
        way: [task.right(record, text) for record, text in zip(tests, texts, strict=True)]
        for way, texts in answered.items()
    }
    return {
        "n": len(tests),
        "searched": dict(searched),
        "gate": version,
        "right": {way: sum(flags) for way, flags in right.items()},
        "flags": {way: "".join("01"[flag] for flag in flags) for way, flags in right.items()},
        "examples": [
            {
                "prompt": tests[i].prompt,
                "wanted": tests[i].completion,
                **{way: texts[i] for way, texts in answered.items()},
            }
            for i in range(min(3, len(tests)))
        ],
    }


def measure_alone(
    base: ModelLocation,
    task: Composite,
    adapters: dict[str, Path],
    skill: Sequence[Record],
    own: Sequence[Record],
    *,
    threads: int,
    kept: Path,
    say: Say,
) -> dict[str, Any]:
    """Count what each adapter answers right in its own task; a composition needs both.

    Args:
        skill: the skill's held-out prompts, answers in its own form.
        own: held-out prompts of the format's skills, answers in the format.
    """
    limit = MAX_TOKENS + SPARE_TOKENS
    asked = {
        "skill": [Asked(record.prompt, ((task.skill, 1.0),)) for record in skill],
        "format": [Asked(record.prompt, ((task.format, 1.0),)) for record in own],
    }
    every, tests = asked["skill"] + asked["format"], [*skill, *own]
    answers = _decoded(base, adapters, every, limit, None, "", threads, kept, tests, say)
    return {
        way: {
            "n": len(items),
            "right": sum(
                _right(record, answers.get(item, limit))
                for record, item in zip(records, items, strict=True)
            ),
        }
        for (way, items), records in zip(asked.items(), (skill, own), strict=True)
    }


def _right(record: Record, text: str) -> bool:
    if isinstance(record.answer, int | float):
        return has_value(text, record.answer)
    return is_exact(text, record.completion)


def gate_part(path: Path, base: ModelLocation) -> tuple[EnginePart, str]:
    """Load a gate as the engine takes it, and its version."""
    aliases = frozenset(read_manifest(path).candidates)
    loaded = load_gate(path, aliases=aliases, base_digest=base.digest)
    digests = adapter_versions(path, loaded.manifest)
    return EnginePart(digests, gate=loaded.gate()), loaded.manifest.version


def _decoded(
    base: ModelLocation,
    adapters: dict[str, Path],
    asked: Sequence[Asked],
    limit: int,
    part: EnginePart | None,
    version: str,
    threads: int,
    kept: Path,
    tests: Sequence[Record],
    say: Say,
) -> KeptAnswers:
    answers = KeptAnswers(kept, base.digest, adapters, part=version)
    if answers.missing(asked, limit):
        with LocalEngine(
            base,
            adapters,
            threads=threads,
            max_model_len=longest_sequence(base, tests) + limit,
            base_check="name",
            part=part,
        ) as engine:
            answers.fill(asked, limit, engine.answers, say)
    return answers
