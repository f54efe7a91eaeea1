"""Fits non-negative coefficients to sums of observations that are forgotten by half-lives.

With features x, seconds y and the prior's coefficients p, each observation weighs 1 / (p x): errors
count relative to what is expected, and noise in y does not change its own weight. Only the weighted
sums of x x', x y and y y are kept, so the order of observations does not matter.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from cluster.placement.cost.nonnegative import inverse_diagonal, solve_nonnegative

LEAST_NOISE = 0.02  # relative error of an observation, at least
UNCERTAIN = 0.1  # of all seconds: what any coefficient may account for besides its prior
MOST = 1e18
"""An observation with a larger feature is refused."""
LEAST_MASS = 1e-6
"""A fit that knows less than this forgets no more."""
FAINT = 1e-100
"""A feature with a smaller sum of squares counts as never seen, long before floats lose digits."""


class LinearFit:
    """Learns ``y = x c`` with c >= 0 from observations; one owner.

    Args:
        prior: coefficients to begin with. Their proportions count; their level is fitted first.
        guess: the prior was not measured. What was is better, however much of it is noise: the
            fit rules from when enough was observed on, whenever that was.
        prior_mass: of observations that the prior counts as.
        least_mass: of observations without which the prior rules.
        least_r2: below it the prior rules, too.
    """

    def __init__(
        self,
        prior: Sequence[float],
        *,
        guess: bool = False,
        prior_mass: float,
        least_mass: float,
        least_r2: float = 0.8,
    ) -> None:
        self._prior = tuple(prior)
        self._prior_mass = prior_mass
        self._least_mass = least_mass
        self._least_r2 = least_r2
        self._guess = guess
        self._seen = 0.0  # mass of all observations, the forgotten ones too
        size = len(self._prior)
        self._gram = [[0.0] * size for _ in range(size)]
        self._moments = [0.0] * size
        self._squares = 0.0
        self._count = 0.0  # of observations
        self._left = 1.0  # of the prior's weight
        self.mass = 0.0
        """Of observations not forgotten: seconds, or whatever the owner counts."""
        self._solved: list[float] | None = None
        self._near: list[float] = []  # what was solved last

    @property
    def prior(self) -> tuple[float, ...]:
        """Coefficients to begin with."""
        return self._prior

    def replace_prior(self, prior: Sequence[float], guess: bool) -> None:
        """Begin from other coefficients; what was observed stays."""
        self._prior, self._guess = tuple(prior), guess
        self._solved = None

    def forget(self, factor: float) -> None:
        """Let everything known count ``factor`` (0 to 1) of what it did, ``LEAST_MASS`` apart."""
        if 0.0 < self.mass * factor < LEAST_MASS:
            return
        self._moments = [value * factor for value in self._moments]
        self._gram = [[value * factor for value in row] for row in self._gram]
        self._squares *= factor
        self._count *= factor
        self.mass *= factor
        self._left *= factor
        self._drop_faint()
        self._solved = None

    def observe(self, x: Sequence[float], y: float, mass: float) -> bool:
        """Take in an observation; False, changing nothing, if it makes no sense."""
        if not (1e-9 <= y <= 1e9 and 0 < mass <= 1e9 and all(0 <= v <= MOST for v in x)):
            return False
        expected = sum(p * v for p, v in zip(self._prior, x, strict=True))
        weight = 1.0 / (expected if 1e-9 <= expected <= 1e9 else y)
        for i, value in enumerate(x):
            if value:
                self._moments[i] += weight * value * y
                for j, other in enumerate(x):
                    self._gram[i][j] += weight * value * other
        self._squares += weight * y * y
        self._count += 1.0
        self.mass += mass
        self._seen += mass
        self._solved = None
        return True

    @property
    def fitted(self) -> list[float]:
        """Coefficients that fit best, drawn to the prior's."""
        if self._solved is None:
            self._solved = self._solve()
        return self._solved

    @property
    def rules(self) -> bool:
        """Return whether enough was observed, and the fit explains it."""
        if self._guess:
            return self._seen >= self._least_mass
        if self.mass < self._least_mass:
            return False
        return self._least_r2 <= 0.0 or self.r2 >= self._least_r2

    @property
    def coefficients(self) -> list[float]:
        """Coefficients in force: the fitted ones where the fit rules, else the prior's."""
        return self.fitted if self.rules else list(self._prior)

    @property
    def r2(self) -> float:
        """One minus the weighted squares of the errors over those of y; there is no constant term,
        so the mean does not come into it. 0 before any observation."""
        if self._squares <= 0:
            return 0.0
        return min(max(1.0 - self._error_squares(self.fitted) / self._squares, 0.0), 1.0)

    def standard_errors(self) -> list[float]:
        """Return the standard error of each fitted coefficient; 0 for one that was never seen."""
        variance = self._variance(self.fitted)
        gram, _ = self._sums_with_prior(variance, self._level())
        return [(variance * value) ** 0.5 for value in inverse_diagonal(gram)]

    def to_state(self) -> dict[str, Any]:
        """Return all that ``restore`` needs, JSON-able."""
        return {
            "prior": list(self._prior),
            "gram": [list(row) for row in self._gram],
            "moments": list(self._moments),
            "squares": self._squares,
            "count": self._count,
            "left": self._left,
            "mass": self.mass,
            "seen": self._seen,
        }

    def restore(self, state: Mapping[str, Any]) -> bool:
        """Take in ``to_state`` as observed before all that was observed here.

        False, changing nothing, if it is of another prior or broken.

        Raises nothing: a state that cannot be used is as good as none.
        """
        size = len(self._prior)
        try:
            gram = [[float(value) for value in row] for row in state["gram"]]
            moments = [float(value) for value in state["moments"]]
            rest = [float(state[name]) for name in ("squares", "count", "left", "mass", "seen")]
            prior = tuple(float(value) for value in state["prior"])
        except (KeyError, TypeError, ValueError, OverflowError):
            return False
        values = [*rest, *moments, *(value for row in gram for value in row)]
        fits = len(moments) == len(gram) == size and all(len(row) == size for row in gram)
        if prior != self._prior or not fits or not all(0 <= v < float("inf") for v in values):
            return False
        kept = self._left  # of what was known before the first observation here
        for i in range(size):
            self._moments[i] += kept * moments[i]
            for j in range(size):
                self._gram[i][j] += kept * gram[i][j]
        squares, count, left, mass, seen = rest
        self._squares += kept * squares
        self._count += kept * count
        self.mass += kept * mass
        self._left *= left
        self._seen += seen
        self._drop_faint()
        self._solved = None
        return True

    def _drop_faint(self) -> None:
        """Take a feature that was seen too long ago for one that never was."""
        for i, row in enumerate(self._gram):
            if 0.0 < row[i] < FAINT:
                self._moments[i] = 0.0
                for j in range(len(row)):
                    row[j] = self._gram[j][i] = 0.0

    def _level(self) -> float:
        """Return what the prior must be multiplied by to fit best."""
        both = sum([p * moment for p, moment in zip(self._prior, self._moments, strict=True)])
        own = self._squares_of(self._prior)
        return both / own if own > 0 and both > 0 else 1.0

    def _squares_of(self, found: Sequence[float]) -> float:
        """Return the weighted squares of what coefficients predict."""
        total = 0.0
        for one, row in zip(found, self._gram, strict=True):
            if one:  # else it adds nothing
                for value, other in zip(row, found, strict=True):
                    total += one * value * other
        return total

    def _solve(self) -> list[float]:
        level = self._level()
        least = self._variance(None)
        found = solve_nonnegative(*self._sums_with_prior(least, level), self._near)
        variance = self._variance(found)
        if variance != least:
            found = solve_nonnegative(*self._sums_with_prior(variance, level), found)
        self._near = found
        return [
            value if self._gram[i][i] > 0 else self._prior[i] * level  # never seen
            for i, value in enumerate(found)
        ]

    def _variance(self, found: Sequence[float] | None) -> float:
        """Return the variance of a weighted error, ``LEAST_NOISE`` at least."""
        if self._count <= 0:
            return 0.0
        least = LEAST_NOISE**2 * self._squares / self._count
        if found is None:
            return least
        return max(least, self._error_squares(found) / max(self._count - len(found), 1.0))

    def _sums_with_prior(
        self, variance: float, level: float
    ) -> tuple[list[list[float]], list[float]]:
        """Return the sums with the prior in them, twice.

        Once as if it had been observed, with the same features, for ``prior_mass``. And once as a
        belief of each coefficient, uncertain by itself and by ``UNCERTAIN`` of all seconds, which
        decides where the observed features leave several answers.
        """
        prior = [p * level for p in self._prior]
        seen = self._prior_mass * self._left / self.mass if self.mass > 0 else 0.0
        gram = [[(1.0 + seen) * value for value in row] for row in self._gram]
        moments = list(self._moments)
        for i, row in enumerate(self._gram):
            moments[i] += seen * sum([value * p for value, p in zip(row, prior, strict=True)])
            if row[i] > 0:
                usual = UNCERTAIN * (self._squares / row[i]) ** 0.5
                belief = variance / max(prior[i], usual) ** 2
                gram[i][i] += belief
                moments[i] += belief * prior[i]
        return gram, moments

    def _error_squares(self, found: Sequence[float]) -> float:
        cross = sum([one * moment for one, moment in zip(found, self._moments, strict=True)])
        return max(self._squares - 2 * cross + self._squares_of(found), 0.0)
