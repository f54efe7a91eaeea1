"""Answers under either adapter, their average, the searched mixture, and the gate."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster.engine.model_source import ModelLocation
from experiments.answers import KeptAnswers
from experiments.flow.tasks import Composite
from experiments.flow.training import Say
from router_service.artifacts import adapter_generations
from router_service.evaluation.local_engine import Asked, LocalEngine, Weights
from router_service.evaluation.records import Record
from router_service.evaluation.run import SPARE_TOKENS, longest_sequence
from router_service.flow.artifact import load_gate
from router_service.routers.kind import EnginePart

WAYS = ("skill", "format", "average", "searched", "flow")
"""What is compared; the first three have no seed."""

MAX_TOKENS = 40
"""Of an answer; hardly any wanted one has more, and those count as wrong for every way."""


def static_ways(task: Composite, searched: Weights) -> dict[str, Weights]:
    """The mixtures that need no gate."""
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
    """Which of the tests each way answers right, decoded greedily; answers are kept."""
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


def gate_part(path: Path, base: ModelLocation) -> tuple[EnginePart, str]:
    """A gate as the engine takes it, and its version."""
    from router_service.artifacts import read_manifest

    aliases = frozenset(read_manifest(path).candidates)
    loaded = load_gate(path, aliases=aliases, base_digest=base.digest)
    digests = adapter_generations(path, loaded.manifest)
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
