"""Turns that continue the turn before them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_service.artifacts.router_artifact import RouterManifest, save_artifact
from router_service.dlp.dlp_options import DlpOptions
from router_service.dlp.dlp_router import DlpRouter, load_dlp
from router_service.dlp.dlp_schema import DlpHyperparameters
from router_service.routers.features import FeatureConfig
from router_service.routers.follow_ups import carry_over, looks_like_follow_up
from router_service.routers.selection import SelectionConfig
from router_service.routers.text_policy import TextPolicy

CANDIDATES = ("", "json", "sql")
EVERYTHING = frozenset(CANDIDATES)
LOGITS = {  # (goes on, base, json, sql)
    "rows": (-9, -9, -9, 5),
    "record": (-9, -9, 5, -9),
    "again": (5, -9, -9, -9),
    "thanks": (-9, 5, -9, -9),
    "maybe": (0.4, -9, 0.0, -9),
}


class FixedWords:
    """Logits of one word, as a network has them that has learned to recognise follow-ups."""

    def __init__(self, *, learned: bool) -> None:
        self.read: list[str] = []
        self._learned = learned

    def logits(self, text: str) -> Sequence[float]:
        self.read.append(text)
        found = LOGITS.get(text, (-9, 0, 0, 0))
        return found if self._learned else found[1:]


def _router(*, learned: bool = True, **text: Any) -> tuple[DlpRouter, FixedWords]:
    manifest = RouterManifest(
        kind="dlp", candidates=CANDIDATES, hyperparameters={}, data_digest="d", version="v"
    )
    words = FixedWords(learned=learned)
    policy = TextPolicy(**text)
    return DlpRouter("r", manifest, words, SelectionConfig(), policy, follow_ups=learned), words


def _top(router: DlpRouter, *turns: str, allowed: frozenset[str] = EVERYTHING) -> str:
    *earlier, text = turns
    terms = dict(router.route(text, allowed, earlier).weights)
    return max(terms, key=lambda alias: terms[alias]) if terms else ""


@pytest.mark.parametrize(
    ("turns", "adapter"),
    [
        (("rows",), "sql"),
        (("again",), ""),
        (("rows", "again"), "sql"),
        (("rows", "again", "again"), "sql"),
        (("rows", "again", "again", "again"), "sql"),
        (("rows", "thanks"), ""),
        (("rows", "thanks", "again"), ""),
        (("rows", "record"), "json"),
        (("rows", "record", "again"), "json"),
        (("thanks", "again"), ""),
        (("rows", "maybe"), "sql"),
    ],
    ids=str,
)
def test_a_follow_up_is_answered_as_the_turn_before(turns: tuple[str, ...], adapter: str) -> None:
    assert _top(_router()[0], *turns) == adapter


def test_no_more_turns_count_than_the_history_has() -> None:
    router, words = _router(history=2)
    assert router.declares.history == 2
    assert _top(router, "rows", "again", "again") == "sql"
    assert _top(router, "rows", "again", "again", "again") == ""
    alone, words = _router(history=0)
    assert alone.declares.history == 0
    assert _top(alone, "rows", "again") == ""
    assert words.read == ["again"]


def test_a_turn_that_stands_alone_costs_one_reading() -> None:
    router, words = _router()
    _top(router, "rows", "rows", "record")
    assert words.read == ["record"]


def test_what_is_carried_over_fades_into_the_base() -> None:
    router, _ = _router(carry=0.6)
    shares = []
    for turns in (("rows",), ("rows", "again"), ("rows", "again", "again")):
        *earlier, text = turns
        scores = router.route(text, EVERYTHING, earlier).scores
        shares.append({s.alias: s.probability for s in scores})
    assert [s["sql"] for s in shares] == pytest.approx([1, 0.6, 0.36], abs=1e-3)
    assert [s[""] for s in shares] == pytest.approx([0, 0.4, 0.64], abs=1e-3)


def test_an_adapter_that_the_tenant_lacks_is_not_carried_over_to_another() -> None:
    assert _top(_router()[0], "rows", "again", allowed=frozenset({"", "json"})) == ""


def test_a_router_that_has_not_learned_it_goes_by_rule() -> None:
    router, _ = _router(learned=False)
    assert _top(router, "rows", "now only those from Rome") == "sql"
    assert _top(router, "now only those from Rome") == ""
    assert _top(router, "rows", "thanks") == ""
    assert _top(router, "rows", "record") == "json"


@pytest.mark.parametrize(
    ("text", "follows"),
    [
        ("and by city?", True),
        ("What about 2020?", True),
        ("only the red ones", True),
        ("sort them by price", True),
        ("und nur aus Rom", True),
        ("", False),
        ("?!", False),
        ("what is a whale", False),
        ("thanks, bye", False),
        ("list all orders above 500", False),
        ("and then I went to the market where I met my aunt who told me all about it", False),
    ],
)
def test_the_rule(text: str, follows: bool) -> None:
    assert looks_like_follow_up(text) is follows


@given(
    turns=st.lists(
        st.tuples(st.lists(st.floats(0.01, 1), min_size=3, max_size=3), st.floats(0, 1)),
        min_size=1,
        max_size=5,
    ),
    carry=st.floats(0.1, 1),
)
def test_carrying_over_is_the_recursion_and_sums_to_one(
    turns: list[tuple[list[float], float]], carry: float
) -> None:
    """Oldest first in the formula, newest first in the code."""
    normal = [([p * (1 - c) / sum(own) for p in own], c) for own, c in turns]
    q = np.array([1.0, 0.0, 0.0])
    base = q.copy()
    for own, c in reversed(normal):
        q = np.array(own) + c * (carry * q + (1 - carry) * base)
    found = carry_over(normal, 0, carry)
    assert sum(found) == pytest.approx(1)
    np.testing.assert_allclose(found, q, atol=2e-3)


def test_the_artifact_says_whether_its_first_output_is_of_follow_ups(tmp_path: Path) -> None:
    from router_service.dlp.mini_mlp import NetworkConfig, tensor_shapes

    tiny = DlpHyperparameters(
        features=FeatureConfig(buckets=64),
        network=NetworkConfig(width=4, hidden=(6, 5, 3)),
        follow_ups=True,
    )
    shapes = tensor_shapes(tiny.network, 64, tiny.outputs(len(CANDIDATES)))
    tensors = {name: np.zeros(shape, np.float16) for name, shape in shapes.items()}
    tensors["linear.3.bias"] = np.array([5, 0, 0, 1], np.float16)
    manifest = RouterManifest(
        kind="dlp",
        candidates=CANDIDATES,
        hyperparameters=tiny.model_dump(mode="json"),
        data_digest="d",
    )
    save_artifact(tmp_path, manifest, tensors)
    router = load_dlp("r", tmp_path, aliases=EVERYTHING)
    found = {s.alias: s.probability for s in router.route("any", EVERYTHING).scores}
    p = np.exp([5, 0, 0, 1]) / np.exp([5, 0, 0, 1]).sum()
    assert found == pytest.approx({"": p[0] + p[1], "json": p[2], "sql": p[3]}, abs=1e-3)
    short = load_dlp("r", tmp_path, aliases=EVERYTHING, options=DlpOptions(history=0))
    assert short.version != router.version
