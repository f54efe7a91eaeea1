"""The demo's router as committed, on wordings that its training did not have."""

from pathlib import Path

import pytest

from demo.generator.datasets import generate
from demo.generator.skills import GENERAL, SKILLS
from demo.generator.wording_results import FILE, read_wording_results
from demo.generator.wordings import (
    FILES,
    LACKING,
    OWN,
    TENANTS,
    read_wordings,
    score,
    served_skill,
    wordings_folder,
)
from router_service.artifacts.router_artifact import BASE_ALIAS, TENSOR_FILE
from router_service.dlp.dlp_router import DlpRouter, load_dlp

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "demo" / "router"
CANDIDATES = frozenset({BASE_ALIAS, *SKILLS})


@pytest.fixture(scope="module")
def router() -> DlpRouter:
    return load_dlp("dlp", FOLDER, aliases=frozenset(SKILLS))


def test_it_is_small_and_knows_every_skill(router: DlpRouter) -> None:
    assert frozenset(router.candidates) == CANDIDATES
    assert (FOLDER / TENSOR_FILE).stat().st_size <= 9.6e6


@pytest.mark.parametrize("name", [*SKILLS, GENERAL.name])
def test_held_out_templates_are_routed_right(router: DlpRouter, name: str) -> None:
    expected = BASE_ALIAS if name == GENERAL.name else name
    examples = generate(name, "heldout", 100, seed=7)
    served = [served_skill(router.route(e.prompt, CANDIDATES)) for e in examples]
    assert served.count(expected) >= 0.97 * len(examples)


@pytest.mark.parametrize("tenant", ["acme", "globex"])
@pytest.mark.parametrize("name", list(SKILLS))
def test_held_out_templates_of_a_restricted_tenant(
    router: DlpRouter, tenant: str, name: str
) -> None:
    """The tenant's skills are answered by their adapters; other skills by the base alone."""
    allowed = TENANTS[tenant] | {BASE_ALIAS}
    expected = name if name in allowed else BASE_ALIAS
    examples = generate(name, "heldout", 50, seed=8)
    served = [served_skill(router.route(e.prompt, allowed)) for e in examples]
    assert served.count(expected) >= 0.95 * len(examples)


def test_human_wordings_are_routed_as_reported(router: DlpRouter) -> None:
    wordings = read_wordings(wordings_folder() / FILES[1])
    found = score(router, wordings)
    results = read_wording_results(ROOT / "docs" / "results" / FILE)
    assert results is not None
    assert results.router_version == router.version
    assert found == {
        kind: (row.right["router"], row.n) for kind, row in results.rows.items() if kind in found
    }


@pytest.mark.parametrize(
    ("rows", "share"),
    [
        ((LACKING,), 0.95),
        (("near miss",), 0.85),
        (("follow-up, skill", "follow-up, no skill"), 0.80),
        (("in-domain",), 0.90),
        (("chat",), 0.95),
        ((OWN,), 0.88),
    ],
    ids=str,
)
def test_it_is_good_enough_on_human_wordings(
    router: DlpRouter, rows: tuple[str, ...], share: float
) -> None:
    found = score(router, read_wordings(wordings_folder() / FILES[1]))
    right, n = (sum(found[row][i] for row in rows) for i in range(2))
    assert right >= share * n


def test_a_prompt_with_two_tasks_gets_both_adapters(router: DlpRouter) -> None:
    prompt = "Show all orders where status is open. Run backup every day at 5:00."
    weights = dict(router.route(prompt, CANDIDATES).weights)
    assert weights.keys() == {"sql", "cron"}
    assert sum(weights.values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("turns", "skill"),
    [
        (("list the flights from Oslo", "now only those from Cairo"), "sql"),
        (("list the flights from Oslo", "now only those from Cairo", "and from Lima?"), "sql"),
        (("list the flights from Oslo", "thanks, what should I have for lunch?"), BASE_ALIAS),
        (("What is the highest mountain in Peru?", "and in Chile?"), BASE_ALIAS),
        (("list the flights from Oslo", "Start the sync every day at 4:00."), "cron"),
    ],
    ids=str,
)
def test_a_conversation_is_followed(router: DlpRouter, turns: tuple[str, ...], skill: str) -> None:
    *earlier, text = turns
    assert served_skill(router.route(text, CANDIDATES, earlier)) == skill
