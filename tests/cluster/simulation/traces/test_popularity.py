"""Ranks are drawn with the probabilities of the formulas."""

from collections import Counter
from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.simulation.traces.popularity import Popularity, power_law, uniform, zipf

DRAWS = 100_000


def chi_square(popularity: Popularity, drawn: Sequence[int]) -> float:
    counts = Counter(drawn)
    expected = [len(drawn) * share for share in popularity.probabilities]
    return sum((counts[rank] - mean) ** 2 / mean for rank, mean in enumerate(expected))


@pytest.mark.parametrize(
    "popularity",
    [uniform(20), zipf(20, 1.0), zipf(20, 0.5), power_law(20, 0.3), power_law(20, 1.0)],
)
def test_draws_have_the_probabilities(popularity: Popularity) -> None:
    rng = Random(11)
    drawn = [popularity.draw(rng) for _ in range(DRAWS)]
    assert chi_square(popularity, drawn) < 19 + 4 * (2 * 19) ** 0.5


def test_zipf_falls_by_the_rank_to_the_power_of_s() -> None:
    shares = zipf(100, 1.2).probabilities
    assert shares[0] / shares[9] == pytest.approx(10**1.2)
    assert sum(shares) == pytest.approx(1)


@pytest.mark.parametrize("alpha", [0.1, 0.5, 1.0, 2.0])
def test_the_power_law_is_that_of_floor_n_u_to_the_power_of_1_by_alpha(alpha: float) -> None:
    rng, n = Random(5), 30
    drawn = [min(n - 1, int(n * rng.random() ** (1 / alpha))) for _ in range(DRAWS)]
    assert chi_square(power_law(n, alpha), drawn) < 29 + 4 * (2 * 29) ** 0.5


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50), st.integers())
def test_a_rank_without_weight_is_never_drawn(weights: list[float], seed: int) -> None:
    if not sum(weights) > 0:
        with pytest.raises(ValueError, match="not all 0"):
            Popularity(weights)
        return
    popularity = Popularity(weights)
    rng = Random(seed)
    for _ in range(20):
        assert popularity.probabilities[popularity.draw(rng)] > 0


def test_a_power_law_needs_a_positive_alpha() -> None:
    with pytest.raises(ValueError, match="alpha: expected above 0"):
        power_law(5, 0)
