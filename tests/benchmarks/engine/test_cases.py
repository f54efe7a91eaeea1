"""Adapters of the requests of a case."""

import math

import pytest

from benchmarks.engine.cases import BASE, BATCHES, CASES, POOL, case_named, choose_cases
from cluster.errors import ConfigError


def test_base_and_idle_requests_have_no_adapter() -> None:
    for name in ("base", "idle-16"):
        assert case_named(name).mixtures(16) == ((),) * 16
    assert case_named("base").loaded == 0
    assert case_named("idle-16").loaded == 16


@pytest.mark.parametrize(("loaded", "batch"), [(1, 16), (4, 16), (16, 16), (64, 16), (64, 32)])
def test_requests_spread_over_all_loaded_adapters(loaded: int, batch: int) -> None:
    mixtures = case_named(f"adapters-{loaded}").mixtures(batch)
    assert all(weight == 1.0 for ((_, weight),) in mixtures)
    used = [adapter for ((adapter, _),) in mixtures]
    assert len(set(used)) == min(loaded, batch)
    assert max(used) - min(used) >= min(loaded, batch) - 1
    if loaded > batch:
        assert max(used) == loaded - loaded // batch


@pytest.mark.parametrize("terms", [1, 2, 4, 8])
@pytest.mark.parametrize("batch", BATCHES)
def test_every_request_has_a_mixture_of_its_own(terms: int, batch: int) -> None:
    mixtures = case_named(f"mixture-{terms}").mixtures(batch)
    assert len(set(mixtures)) == batch
    for mixture in mixtures:
        assert len({adapter for adapter, _ in mixture}) == terms
        assert all(0 <= adapter < POOL and math.isfinite(w) and w > 0 for adapter, w in mixture)
        assert sum(weight for _, weight in mixture) < 2


def test_no_case_names_an_adapter_that_is_not_loaded() -> None:
    for case in CASES:
        for batch in BATCHES:
            used = {adapter for mixture in case.mixtures(batch) for adapter, _ in mixture}
            assert used <= set(range(case.loaded))


def test_the_base_is_always_measured() -> None:
    assert choose_cases(["adapters-16"]) == (BASE, case_named("adapters-16"))


def test_an_unknown_case_is_named_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"'adapters-17'.*adapters-16.*mixture-8"):
        choose_cases(["base", "adapters-17"])


def test_a_few_requests_need_no_large_bank() -> None:
    assert [c.name for c in CASES if not c.fits(1)] == ["adapters-16", "adapters-64"]
    assert all(case.fits(16) for case in CASES)
