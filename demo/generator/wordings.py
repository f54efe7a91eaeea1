"""Human wordings with the skill that each wants, and what a router makes of them.

The files are written by hand and never trained on: `dev.jsonl` is to choose settings with,
`test.jsonl` to report on. A line has the `kind` of wording, the `skill` that it asks for ("" for
none), the `tenant` who asks ("" for one who may use everything) and the user's `turns`.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Protocol

from pydantic import BaseModel, ConfigDict, ValidationError

from cluster.errors import ConfigError
from demo.generator.skills import SKILLS
from router_service.artifacts.router_artifact import BASE_ALIAS
from router_service.routers.base import RoutedMixture

TENANTS: Mapping[str, frozenset[str]] = {
    "": frozenset(SKILLS),
    "acme": frozenset({"sql", "json", "cron", "shell"}),
    "globex": frozenset({"dates", "tickets", "equations", "json"}),
}
"""Skills of the demo's two tenants, and of one who has all."""

FILES = ("dev.jsonl", "test.jsonl")
_FOLDER = Path("demo", "wordings")

OWN, LACKING = "own skills, restricted tenant", "skills the tenant lacks"


class Wording(BaseModel):
    """One line of a file of wordings."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: str
    skill: str
    tenant: str
    turns: tuple[str, ...]

    @property
    def wanted(self) -> str:
        """The skill that should answer, or the base."""
        return self.skill if self.skill in TENANTS[self.tenant] else BASE_ALIAS


class WordingRouter(Protocol):
    """A router or a rival of one."""

    def route(
        self, text: str, allowed: frozenset[str], earlier: Sequence[str] = ()
    ) -> RoutedMixture:
        """Choose for ``text``, after ``earlier`` turns."""
        ...


def read_wordings(path: Path) -> list[Wording]:
    """Read every line of a file.

    Raises:
        ConfigError: it cannot be read, or a line is not a wording.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return [Wording.model_validate_json(line) for line in lines]
    except (OSError, ValidationError) as error:
        raise ConfigError(f"{path}: not a file of wordings: {error}") from error


def wordings_folder() -> Path:
    """Find the folder of the files, in the checkout that this module is part of.

    Raises:
        ConfigError: there is none: the files are not installed.
    """
    for parent in Path(__file__).parents:
        if (parent / _FOLDER).is_dir():
            return parent / _FOLDER
    raise ConfigError(f"{_FOLDER}: not found; work in a checkout of the project")


def held_back_texts() -> list[str]:
    """Read every turn of both files; they do not measure a router trained on near copies of them.

    Raises:
        ConfigError: see ``read_wordings``.
    """
    files = [wordings_folder() / name for name in FILES]
    return [turn for file in files for wording in read_wordings(file) for turn in wording.turns]


def served_skill(answer: RoutedMixture) -> str:
    """Return the adapter with the largest weight, or the base if no adapter answers."""
    terms = dict(answer.weights)
    return max(terms, key=lambda alias: abs(terms[alias])) if terms else BASE_ALIAS


def is_right(router: WordingRouter, wording: Wording) -> bool:
    """Check if the wanted skill has the largest weight, or, for none, the base alone answers."""
    *earlier, text = wording.turns
    allowed = TENANTS[wording.tenant] | {BASE_ALIAS}
    return served_skill(router.route(text, allowed, earlier)) == wording.wanted


def by_kind(wordings: Iterable[Wording]) -> dict[str, list[Wording]]:
    """Sort wordings by row of the table.

    Besides those of a kind: each single turn that wants a skill as the two tenants ask it, apart
    for those who have the skill and those who do not.
    """
    groups: dict[str, list[Wording]] = {}
    for wording in wordings:
        if wording.kind != "restricted":
            what = "skill" if wording.skill else "no skill"
            split = wording.kind in ("other language", "follow-up")
            groups.setdefault(f"{wording.kind}, {what}" if split else wording.kind, []).append(
                wording
            )
        if wording.skill and len(wording.turns) == 1:
            tenants = [wording.tenant] if wording.tenant else [t for t in TENANTS if t]
            for tenant in tenants:
                asked = wording.model_copy(update={"tenant": tenant})
                groups.setdefault(OWN if asked.wanted else LACKING, []).append(asked)
    return groups


def score(router: WordingRouter, wordings: Iterable[Wording]) -> dict[str, tuple[int, int]]:
    """Count (right, of how many) by row."""
    return {
        kind: (sum(is_right(router, wording) for wording in group), len(group))
        for kind, group in sorted(by_kind(wordings).items())
    }


def route_p50_ms(
    router: WordingRouter,
    wordings: Sequence[Wording],
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Measure the median time of one decision over the wordings, in milliseconds."""
    times = []
    for wording in wordings:
        *earlier, text = wording.turns
        started = clock()
        router.route(text, TENANTS[""] | {BASE_ALIAS}, earlier)
        times.append(clock() - started)
    return 1e3 * median(times)
