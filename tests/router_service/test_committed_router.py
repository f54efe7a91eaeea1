"""The demo's router as committed, on wordings that its training did not have."""

from pathlib import Path

import pytest

from demo.generator.datasets import generate
from demo.generator.skills import GENERAL, SKILLS
from router_service.artifacts import TENSOR_FILE
from router_service.routers.base import BASE_ALIAS
from router_service.routers.dlp import DlpRouter, load_dlp

FOLDER = Path(__file__).parents[2] / "demo" / "router"
CANDIDATES = frozenset({BASE_ALIAS, *SKILLS})


@pytest.fixture(scope="module")
def router() -> DlpRouter:
    return load_dlp("auto", FOLDER, aliases=frozenset(SKILLS))


def test_it_is_small_and_knows_every_skill(router: DlpRouter) -> None:
    assert frozenset(router.candidates) == CANDIDATES
    assert (FOLDER / TENSOR_FILE).stat().st_size <= 10.5e6


@pytest.mark.parametrize("name", [*SKILLS, GENERAL.name])
def test_held_out_wordings_are_routed_right(router: DlpRouter, name: str) -> None:
    expected = BASE_ALIAS if name == GENERAL.name else name
    examples = generate(name, "heldout", 100, seed=7)
    likeliest = [
        max(router.route(e.prompt, CANDIDATES).scores, key=lambda s: s.probability).alias
        for e in examples
    ]
    assert likeliest.count(expected) >= 0.97 * len(examples)


def test_a_prompt_with_two_tasks_gets_both_adapters(router: DlpRouter) -> None:
    prompt = "Show all orders where status is open. Run backup every day at 5:00."
    weights = dict(router.route(prompt, CANDIDATES).weights)
    assert weights.keys() == {"sql", "cron"}
