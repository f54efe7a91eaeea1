"""Score the demo's router and its rivals on the test file of human wordings."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from cluster.errors import ConfigError
from demo.generator.build import DEMO_SEED
from demo.generator.datasets import generate
from demo.generator.report import write_report
from demo.generator.results import read_results
from demo.generator.results_file import write_result_file
from demo.generator.rivals import AlwaysBase, NaiveBayes, Renormalising
from demo.generator.router_texts import router_texts
from demo.generator.skills import GENERAL, SKILLS
from demo.generator.wording_results import (
    FILE,
    WordingResults,
    WordingRow,
    read_wording_results,
)
from demo.generator.wordings import (
    Wording,
    WordingRouter,
    held_back_texts,
    is_right,
    read_wordings,
    route_p50_ms,
    score,
    wordings_folder,
)
from router_service.artifacts.router_artifact import BASE_ALIAS
from router_service.dlp.dlp_router import load_dlp

BEFORE = "before"
_TEMPLATES = "templates, held out"
_N_TEMPLATES = 100
_TEMPLATE_SEED = 7


def score_wordings(
    router: Path, results: Path, report: Path, before: Path | None = None
) -> WordingResults:
    """Score a router and its rivals, and write results and report.

    Args:
        router: folder of the router.
        results: `demo-skills.json`; the results are written into its folder.
        report: the Markdown report, which is written again from both results.
        before: folder of the router of before; without it its column stays as it was measured.

    Raises:
        ConfigError: a file is missing or is another, or the column of before is of other wordings.
    """
    path = wordings_folder() / "test.jsonl"
    wordings = read_wordings(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    own = load_dlp("dlp", router, aliases=frozenset(SKILLS))
    rivals: dict[str, WordingRouter] = {"router": own}
    if before is not None:
        rivals[BEFORE] = Renormalising(load_dlp(BEFORE, before, aliases=frozenset(SKILLS)))
    rivals["naive Bayes"] = NaiveBayes(router_texts(DEMO_SEED, held_back_texts()))
    rivals["base"] = AlwaysBase()
    found = {name: _rows(rival, wordings) for name, rival in rivals.items()}
    times = {name: route_p50_ms(rival, wordings) for name, rival in rivals.items()}
    kept = read_wording_results(results.with_name(FILE))
    if before is None:
        if kept is None or kept.digest != digest:
            raise ConfigError(f"{path}: changed; score the router of before again too (--before)")
        found[BEFORE] = {kind: (row.right[BEFORE], row.n) for kind, row in kept.rows.items()}
        times[BEFORE] = kept.p50_ms[BEFORE]
    order = ("router", BEFORE, "naive Bayes", "base")
    done = WordingResults(
        router_version=own.version,
        wordings=len(wordings),
        digest=digest,
        rows={
            kind: WordingRow(n=n, right={name: found[name][kind][0] for name in order})
            for kind, (_, n) in found["router"].items()
        },
        p50_ms={name: round(times[name], 3) for name in order},
    )
    write_result_file(results.with_name(FILE), done)
    skills = read_results(results)
    if skills is not None:
        write_report(report, skills, done)
    return done


def _rows(rival: WordingRouter, wordings: Iterable[Wording]) -> dict[str, tuple[int, int]]:
    """Count (right, of how many) by kind, the held-out templates last."""
    templates = [
        Wording(kind=_TEMPLATES, skill=skill, tenant="", turns=(example.prompt,))
        for name in (*SKILLS, GENERAL.name)
        for skill in (BASE_ALIAS if name == GENERAL.name else name,)
        for example in generate(name, "heldout", _N_TEMPLATES, _TEMPLATE_SEED)
    ]
    right = sum(is_right(rival, wording) for wording in templates)
    return {**score(rival, wordings), _TEMPLATES: (right, len(templates))}
