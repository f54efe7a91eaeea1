from collections import Counter

import pytest

from training.schedule import batch_indices, learning_rate


def test_the_rate_rises_then_falls() -> None:
    rates = [learning_rate(s, peak=1.0, warmup=4, total=20) for s in range(20)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4] == 1.0
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert 0 < rates[-1] < 0.02


def test_a_run_shorter_than_its_warm_up_has_rates() -> None:
    assert learning_rate(0, peak=1.0, warmup=8, total=1) == pytest.approx(1 / 8)


@pytest.mark.parametrize("batch_size", [1, 3, 7, 20])
def test_every_epoch_visits_every_example_once(batch_size: int) -> None:
    steps = 7 * 10
    seen = [
        i
        for s in range(steps)
        for i in batch_indices(s, n_examples=7, batch_size=batch_size, seed=3)
    ]
    assert len(seen) == steps * batch_size
    for start in range(0, len(seen), 7):
        assert sorted(seen[start : start + 7]) == list(range(7))
    assert set(Counter(seen).values()) == {10 * batch_size}


def test_the_order_depends_on_seed_and_epoch() -> None:
    orders = {
        tuple(batch_indices(step, n_examples=20, batch_size=20, seed=seed))
        for step in (0, 1)
        for seed in (0, 1)
    }
    assert len(orders) == 4
