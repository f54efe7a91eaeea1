"""Checks the loads that a profile is measured under."""

from hypothesis import given
from hypothesis import strategies as st

from deployments.cli.profiling.profile_cells import ANSWER, PROMPTS, RANKS, profile_cells


@given(
    st.integers(1, 64),
    st.integers(1, 32),
    st.integers(ANSWER + 1, 4096),
    st.integers(ANSWER + 1, 10**5),
    st.booleans(),
)
def test_every_cell_fits_the_engine(max_batch, slots, longest, room, quick):
    cells = profile_cells(
        max_batch=max_batch,
        slots=dict.fromkeys(RANKS, slots),
        longest=longest,
        room=room,
        quick=quick,
    )
    for cell in cells:
        assert 1 <= cell.requests <= max_batch
        assert 1 <= cell.prompt <= longest - ANSWER
        assert cell.requests * (cell.prompt + ANSWER) <= room
        assert cell.adapters <= min(slots, cell.requests)
    assert len(set(cells)) == len(cells)


def test_they_go_from_the_least_to_the_most():
    cells = profile_cells(
        max_batch=32, slots={8: 16, 64: 4}, longest=2048 + ANSWER, room=10**6, quick=False
    )
    assert {cell.prompt for cell in cells} >= set(PROMPTS)
    assert {cell.requests for cell in cells} >= {1, 2, 4, 8, 16, 32}
    assert {(cell.rank, cell.adapters) for cell in cells} >= {(8, 0), (8, 16), (64, 1), (64, 4)}
