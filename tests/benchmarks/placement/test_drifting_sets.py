"""The drifting sets have adapters of all sizes, and rivals are judged as the row says."""

from collections import Counter
from collections.abc import Mapping

from benchmarks.placement.simulation.compared import Compared
from benchmarks.placement.simulation.drifting_sets import (
    ATTAINED,
    LOADED,
    RANK_BYTES,
    RANKS,
    TTFT,
    columns,
    drifting_recipe,
    row_of,
    shortfalls,
)
from cluster.simulation.report.figures import Figure

SHORT = "drifting,duration=60,rate=16,adapters=500,tenants=20"


def test_adapters_have_the_size_of_their_ranks() -> None:
    spec = drifting_recipe(SHORT)(1)
    found = Counter(spec.ranks[info.digest] for info in spec.catalog)
    assert set(found) == set(RANKS)
    assert all(info.nbytes == RANK_BYTES * spec.ranks[info.digest] for info in spec.catalog)
    assert {len(asked.adapters) for asked in spec.trace} == {1, 2, 3, 4}


def compared(changes: Mapping[str, Mapping[Figure, float]]) -> Compared:
    """Return columns that are far behind Braid in all figures, but for these changes to it."""
    behind = {ATTAINED: -0.2, TTFT: 0.2, LOADED: 100.0}
    names = [column.name for column in columns()]
    return Compared(
        tuple((name, "") for name in names),
        {
            figure: tuple(
                tuple(
                    base + (0.0 if name == "Braid" else {**behind, **changes.get(name, {})}[figure])
                    for base in (0.5, 0.51)
                )
                for name in names
            )
            for figure in behind
        },
    )


def test_rivals_must_be_apart_and_off_not_ahead() -> None:
    assert row_of(compared({})).met is True
    assert row_of(compared({"off": {ATTAINED: 0.0, TTFT: 0.0, LOADED: -10.0}})).met is True
    assert list(shortfalls(compared({"off": {TTFT: -0.1}}))) == ["TTFT mean surely worse than off"]
    assert list(shortfalls(compared({"slots": {ATTAINED: -0.01}}))) == [
        "SLO attained not apart from slots"
    ]
    assert list(shortfalls(compared({"random": {LOADED: 0.0}}))) == ["more bytes than random"]
