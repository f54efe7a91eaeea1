"""Checks least squares without negative parts against its optimality conditions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.placement.cost.nonnegative import inverse_diagonal, solve_nonnegative

SEEDS = st.integers(0, 10**6)


@given(SEEDS, st.integers(1, 7), st.integers(1, 12), st.booleans())
def test_the_solution_is_optimal(seed, size, rows, ill_scaled):
    rng = np.random.default_rng(seed)
    x = np.abs(rng.normal(size=(rows, size)))
    if ill_scaled:
        x *= 10.0 ** rng.integers(-9, 9, size=size)
    gram, moments = x.T @ x, x.T @ rng.normal(size=rows)
    found = np.array(solve_nonnegative(gram.tolist(), moments.tolist()))
    assert np.all(found >= 0)
    scale = np.sqrt(np.diag(gram))
    slope = (moments - gram @ found) / scale  # of each part, were all features alike
    most = np.abs(moments / scale).max()
    assert slope.max() <= 1e-6 * most  # none would gain by growing
    assert np.abs(slope[found > 0]).max(initial=0) <= 1e-6 * most


@given(SEEDS, st.integers(1, 6))
def test_a_nonnegative_truth_is_found(seed, size):
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, 1, size=(size + 20, size))
    truth = np.maximum(rng.normal(size=size), 0)
    gram, moments = x.T @ x, x.T @ (x @ truth)
    found = solve_nonnegative(gram.tolist(), moments.tolist())
    assert np.allclose(found, truth, atol=1e-6 * max(truth.max(), 1e-9))


def test_features_that_are_never_seen_stay_0():
    assert solve_nonnegative([[0.0, 0.0], [0.0, 4.0]], [0.0, 8.0]) == [0.0, 2.0]
    assert solve_nonnegative([[0.0]], [0.0]) == [0.0]
    assert solve_nonnegative([], []) == []


def test_two_features_in_one_proportion_share_what_one_explains():
    found = solve_nonnegative([[1.0, 2.0], [2.0, 4.0]], [3.0, 6.0])
    assert found[0] + 2 * found[1] == pytest.approx(3.0)


@given(SEEDS, st.integers(1, 6))
def test_the_inverse_has_this_diagonal(seed, size):
    x = np.random.default_rng(seed).normal(size=(size + 10, size))
    gram = x.T @ x
    assert np.allclose(inverse_diagonal(gram.tolist()), np.diag(np.linalg.inv(gram)))


def test_a_singular_matrix_has_no_inverse_and_no_error():
    assert inverse_diagonal([[1.0, 1.0], [1.0, 1.0]]) == [0.0, 0.0]
    assert inverse_diagonal([[4.0, 0.0], [0.0, 0.0]]) == [0.25, 0.0]
