"""The load at the same time of earlier days."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

DAYS = 7
HOUR_BINS = 12


@dataclass(frozen=True, slots=True)
class DayLength:
    """A day, after which the load comes again; a simulated one may be shorter."""

    seconds: float = 86_400.0
    bins: int = 288  # of five minutes

    @property
    def bin_s(self) -> float:
        """Return the seconds of a bin."""
        return self.seconds / self.bins


DAY = DayLength()


class DailySeason:
    """The last days' loads by time of day; one owner. Times are wall seconds since the epoch.

    A day without a load is left out: the mean is of the last ones that were seen.
    """

    def __init__(self, day: DayLength) -> None:
        self.bin_s, self._bins = day.bin_s, day.bins
        self._loads: list[tuple[float, ...]] = [()] * day.bins  # newest last
        self._errors: list[tuple[float, float] | None] = [None] * day.bins
        self._changed: set[int] = set()
        self._turn = 0

    def bin_of(self, wall: float) -> int:
        """Return the number of the bin that ``wall`` is in."""
        return int(wall // self.bin_s) % self._bins

    def mean(self, number: int) -> float | None:
        """Return the mean load of a bin, or None if no day has one."""
        loads = self._loads[number]
        return sum(loads) / len(loads) if loads else None

    def at(self, wall: float) -> float | None:
        """Return the mean load at a time, on a line from bin to bin, or None if none is known."""
        bins = wall / self.bin_s - 0.5
        share = bins % 1.0
        first = int(bins // 1.0)
        before, after = self.mean(first % self._bins), self.mean((first + 1) % self._bins)
        if before is None or after is None:
            return after if before is None else before
        return before + share * (after - before)

    def days(self, wall: float) -> int:
        """Return how many days the mean at a time is of."""
        return len(self._loads[self.bin_of(wall)])

    def close(self, number: int, load: float, errors: tuple[float, float] | None) -> None:
        """Take in a bin that is over: its mean load, and the mean errors of trend and season."""
        self._loads[number] = (*self._loads[number], load)[-DAYS:]
        self._errors[number] = errors
        self._changed.add(number)

    @property
    def errors(self) -> tuple[float, float] | None:
        """Return the mean errors of trend and season over the last day.

        None: not both have spoken for the most part of it.
        """
        known = [both for both in self._errors if both is not None]
        if len(known) < 0.75 * self._bins:
            return None
        return sum(both[0] for both in known) / len(known), sum(b[1] for b in known) / len(known)

    def changes(self) -> dict[str, list[list[float]]]:
        """Return the bins that changed since they were ``written``, and another one in turn.

        So a store that has lost its data has them after as many calls as a day has bins.
        """
        self._turn = (self._turn + 1) % self._bins
        numbers = self._changed | ({self._turn} if self._loads[self._turn] else set())
        return {
            str(number): [list(self._loads[number]), list(self._errors[number] or ())]
            for number in sorted(numbers)
        }

    def written(self, changes: Mapping[str, object]) -> None:
        """Take in that these bins are kept."""
        self._changed -= {int(name) for name in changes if name.isdigit()}

    def restore(self, kept: Mapping[str, Sequence[Sequence[float]]]) -> None:
        """Take in what all ``changes`` together said.

        Raises:
            TypeError, ValueError: it was not ``changes`` that said it; nothing has changed then.
        """
        loads, errors = list(self._loads), list(self._errors)
        for name, (of_days, of_both) in kept.items():
            loads[int(name) % self._bins] = tuple(float(load) for load in of_days)[-DAYS:]
            both = [float(error) for error in of_both]
            errors[int(name) % self._bins] = (both[0], both[-1]) if both else None
        self._loads, self._errors = loads, errors
