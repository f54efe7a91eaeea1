"""Selection and renormalisation against closed forms and a brute-force model."""

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_service.routers.selection import SelectionConfig, renormalise, select, softmax


def test_the_worked_example_of_the_paper_keeps_the_crossing_candidate() -> None:
    probabilities = [0.55, 0.30, 0.15]
    kept = select(probabilities, SelectionConfig(top_p=0.6))
    assert kept == [0, 1]
    weights = renormalise([probabilities[i] for i in kept], "softmax_probabilities")
    assert weights == pytest.approx([0.562, 0.438], abs=5e-4)


@pytest.mark.parametrize(
    ("probabilities", "top_p", "kept"),
    [
        pytest.param([0.55, 0.30, 0.15], 1e-12, [0], id="p to 0 keeps one"),
        pytest.param([0.55, 0.30, 0.15], 1.0, [0, 1, 2], id="p = 1 keeps all"),
        pytest.param([0.6, 0.4 + 1e-15, 1e-17], 1.0, [0, 1, 2], id="p = 1 and a sum above 1"),
        pytest.param([0.0, 1.0, 0.0], 1.0, [1, 0, 2], id="p = 1 keeps the impossible"),
        pytest.param([0.5, 0.5], 0.5, [0, 1], id="sum equal to p goes on"),
        pytest.param([0.25, 0.25, 0.5], 0.5, [2, 0], id="ties in candidate order"),
        pytest.param([1.0], 0.6, [0], id="one candidate"),
    ],
)
def test_nucleus(probabilities: list[float], top_p: float, kept: list[int]) -> None:
    assert select(probabilities, SelectionConfig(top_p=top_p)) == kept


@pytest.mark.parametrize(
    ("probabilities", "weights"),
    [([0.6, 0.4], [0.55, 0.45]), ([0.9, 0.08], [0.69, 0.31]), ([0.7], [1.0])],
)
def test_softmax_over_probabilities_is_nearly_uniform(
    probabilities: list[float], weights: list[float]
) -> None:
    assert renormalise(probabilities, "softmax_probabilities") == pytest.approx(weights, abs=6e-3)


def test_threshold_keeps_those_above_it_and_always_one() -> None:
    config = SelectionConfig(method="threshold", threshold=0.3)
    assert select([0.35, 0.25, 0.4], config) == [2, 0]
    assert select([0.3, 0.3, 0.4], SelectionConfig(method="threshold", threshold=0.9)) == [2]


def test_top_k_divided_by_sum_is_the_softmax_of_the_kept_logits() -> None:
    logits = [2.0, -1.0, 0.5, 1.9]
    probabilities = softmax(logits)
    kept = select(probabilities, SelectionConfig(method="top_k", top_k=2))
    assert kept == [0, 3]
    weights = renormalise([probabilities[i] for i in kept], "divide_by_sum")
    assert weights == pytest.approx(softmax([logits[i] for i in kept]))


def test_fan_out_is_capped_after_the_selection() -> None:
    assert select([0.2, 0.5, 0.3], SelectionConfig(top_p=1.0, max_fan_out=2)) == [1, 2]


# Counts over a power of two make sums exact, so that the model and the code meet no rounding.
_counts = st.lists(st.integers(0, 64), min_size=1, max_size=12).filter(any)


@given(counts=_counts, threshold=st.integers(1, 64))
def test_nucleus_equals_brute_force(counts: list[int], threshold: int) -> None:
    total = 1024
    probabilities = [count / total for count in counts]
    top_p = threshold * sum(counts) // 64 / total or 1 / total
    kept = select(probabilities, SelectionConfig(top_p=min(top_p, 1 - 2**-20)))

    limit = Fraction(min(top_p, 1 - 2**-20))
    expected = set()
    for i, p in enumerate(probabilities):
        ahead = [Fraction(q) for j, q in enumerate(probabilities) if q > p or (q == p and j < i)]
        if not ahead or sum(ahead) <= limit:
            expected.add(i)
    assert set(kept) == expected
    assert [probabilities[i] for i in kept] == sorted(
        (probabilities[i] for i in kept), reverse=True
    )


@given(
    kept=st.lists(st.floats(1e-6, 1), min_size=1, max_size=8),
    how=st.sampled_from(["softmax_probabilities", "divide_by_sum"]),
)
def test_weights_are_a_distribution_in_the_order_of_the_probabilities(
    kept: list[float], how: str
) -> None:
    weights = renormalise(kept, how)  # type: ignore[arg-type]
    assert math.fsum(weights) == pytest.approx(1)
    assert all(weight > 0 for weight in weights)
    for (a, wa), (b, wb) in zip(
        zip(kept, weights, strict=True), list(zip(kept, weights, strict=True))[1:], strict=False
    ):
        assert (a <= b) == (wa <= wb) or math.isclose(wa, wb)


@given(st.lists(st.floats(-700, 700), min_size=1, max_size=10))
def test_softmax_is_finite_for_any_logits(logits: list[float]) -> None:
    probabilities = softmax(logits)
    assert math.fsum(probabilities) == pytest.approx(1)
    assert all(0 <= p <= 1 for p in probabilities)
