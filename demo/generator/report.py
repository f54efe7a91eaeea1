"""`docs/demo-skills.md`, written from the measured results and from nothing else."""

from pathlib import Path

from demo.generator.results import DemoResults, SkillResult
from demo.generator.skills import SKILLS
from demo.generator.wording_results import WordingResults, wording_lines

_INTRO = """\
# Demo skills

Written by `python -m demo evaluate`; do not edit. Share of held-out prompts answered exactly as
wanted, decoded greedily. The prompts come from templates that training never saw. *Base* is the
bare model, *adapter* is the skill's own adapter, *routed* is the router's choice; the router
does not know the skill.
"""


def write_report(path: Path, results: DemoResults, wordings: WordingResults | None = None) -> None:
    """Write the report, replacing the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render_report(results, wordings), encoding="utf-8")


def render_report(results: DemoResults, wordings: WordingResults | None = None) -> str:
    """Render the report as Markdown."""
    lines = [
        _INTRO,
        f"Base model: `{results.base_model}`, digest `{results.base_digest[:12]}`. "
        f"Router: {f'`{results.router}`' if results.router else 'not measured yet'}. "
        f"Seed of the examples: {results.seed}.",
        "",
        "| skill | what it does | n | base | adapter | routed |",
        "|---|---|---|---|---|---|",
    ]
    for name, result in sorted(results.skills.items()):
        cells = (
            f"`{name}`",
            SKILLS[name].description,
            str(result.n),
            _share(result.base, result.n),
            _share(result.adapter, result.n),
            _share(result.routed, result.n),
        )
        lines.append(f"| {' | '.join(cells)} |")
    lines.append("")
    if wordings is not None:
        lines += wording_lines(wordings)
    lines += ["## One held-out prompt of each", ""]
    for name, result in sorted(results.skills.items()):
        lines += _sample_lines(name, result)
    return "\n".join(lines).rstrip() + "\n"


def _share(correct: int | None, n: int) -> str:
    return "not measured" if correct is None else f"{correct / n:.0%}"


def _sample_lines(name: str, result: SkillResult) -> list[str]:
    sample = result.sample
    texts = (("prompt", sample.prompt), ("wanted", sample.wanted), ("base", sample.base))
    return [
        f"### {name}",
        "",
        "```text",
        *(f"{label}: {' '.join(text.split())}" for label, text in texts),
        "```",
        "",
    ]
