"""The rank of vLLM's slots follows from what is configured, or from the memory."""

import pytest

from cluster.config import AdapterConfig
from cluster.engine.hosted.slot_ranks import slot_rank
from cluster.errors import ConfigError

SHAPES = {"q_proj": (100, 50), "down_proj": (20, 80)}  # 250 values of rank 1


def rank(**fields: object) -> int:
    return slot_rank(AdapterConfig(slots=4, **fields), SHAPES, 4)


@pytest.mark.parametrize(("asked", "given"), [(1, 1), (2, 8), (16, 16), (17, 32), (300, 320)])
def test_a_rank_that_is_asked_for_is_rounded_up(asked: int, given: int) -> None:
    assert rank(max_rank=asked) == given


@pytest.mark.parametrize(("slots_of", "given"), [(8, 8), (15, 8), (64, 64), (10_000, 256)])
def test_unasked_it_is_the_largest_that_fits(slots_of: int, given: int) -> None:
    assert rank(memory_bytes=4 * 250 * 4 * slots_of) == given


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="for rank 32 they take 128000 bytes"):
        rank(max_rank=32, memory_bytes=100_000)
    with pytest.raises(ConfigError, match="for rank 1 "):
        rank(memory_bytes=100)
    with pytest.raises(ConfigError, match="at most 512"):
        rank(max_rank=600)
