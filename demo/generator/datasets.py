"""Examples of the demo skills, drawn from a seed, and their JSONL files."""

from pathlib import Path
from random import Random

from cluster.errors import ConfigError
from demo.generator.skills import GENERAL, SKILLS
from demo.generator.skills.templates import Skill, Split
from training.jsonl import Example, write_examples

_MAX_MISSES_PER_EXAMPLE = 200


def generate(skill: str, split: Split, n: int, seed: int) -> list[Example]:
    """Generate `n` examples of a skill with pairwise different prompts, the same for the same
    arguments.

    `skill` is a key of `SKILLS` or "general", whose examples have an empty completion.

    Raises:
        ConfigError: the skill does not exist, or has fewer than `n` different prompts.
    """
    spec = _find(skill)
    rng = Random(f"{seed}/{skill}/{split}")
    drawn: dict[str, Example] = {}
    misses = 0
    while len(drawn) < n:
        example = spec.draw(rng, split)
        if example.prompt not in drawn:
            drawn[example.prompt] = example
            misses = 0
            continue
        misses += 1
        if misses > _MAX_MISSES_PER_EXAMPLE:
            raise ConfigError(
                f"skill {skill!r} has too few different {split} prompts: "
                f"{len(drawn)} found, {n} wanted"
            )
    return list(drawn.values())


def write_datasets(
    out_dir: Path, seed: int, *, n_train: int = 2000, n_heldout: int = 60
) -> dict[str, tuple[Path, Path]]:
    """Write `<skill>.train.jsonl` and `<skill>.heldout.jsonl` for every skill.

    Returns:
        The pair of paths, train then held-out, by skill.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    written = {}
    for skill in SKILLS:
        train, heldout = (out_dir / f"{skill}.{split}.jsonl" for split in ("train", "heldout"))
        write_examples(train, generate(skill, "train", n_train, seed))
        write_examples(heldout, generate(skill, "heldout", n_heldout, seed))
        written[skill] = (train, heldout)
    return written


def generate_pairs(first: str, second: str, n: int, seed: int) -> list[Example]:
    """Generate `n` training examples that ask two skills at once and want both answers in turn.

    Raises:
        ConfigError: see ``generate``.
    """
    return [
        Example(prompt=f"{a.prompt} {b.prompt}", completion=f"{a.completion} {b.completion}")
        for a, b in zip(
            generate(first, "train", n, seed), generate(second, "train", n, seed), strict=True
        )
    ]


def _find(name: str) -> Skill:
    if name == GENERAL.name:
        return GENERAL
    try:
        return SKILLS[name]
    except KeyError:
        known = ", ".join((*sorted(SKILLS), GENERAL.name))
        raise ConfigError(f"no demo skill {name!r}; there are: {known}") from None
