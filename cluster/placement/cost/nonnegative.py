"""Least squares whose solution has no negative part, for a handful of unknowns."""

import bisect
from collections.abc import Sequence

_TINY = 1e-12  # smallest pivot of a matrix with ones on its diagonal


def solve_nonnegative(
    gram: Sequence[Sequence[float]], moments: Sequence[float], near: Sequence[float] = ()
) -> list[float]:
    """Return the x >= 0 that minimises ``x gram x - 2 moments x`` (Lawson and Hanson's active set).

    Args:
        gram: symmetric and positive semidefinite, [n][n].
        moments: [n].
        near: the answer to similar ones: the same unknowns are probably above 0.
    """
    size = len(moments)
    scale = [gram[i][i] ** -0.5 if gram[i][i] > 0 else 0.0 for i in range(size)]
    unit = [[gram[i][j] * scale[i] * scale[j] for j in range(size)] for i in range(size)]
    aim = [moments[i] * scale[i] for i in range(size)]
    tolerance = 1e-10 * max((abs(value) for value in aim), default=0.0)
    found = [0.0] * size
    free = [i for i, value in enumerate(near) if value > 0 and scale[i] > 0]
    begun = _solve([[unit[i][j] for j in free] for i in free], [aim[i] for i in free])
    if begun is None or min(begun, default=0.0) <= 0:
        free = []
    else:
        for i, value in zip(free, begun, strict=True):
            found[i] = value
    for _ in range(3 * size + 3):
        slope = {
            i: aim[i] - sum([unit[i][j] * found[j] for j in free])
            for i in range(size)
            if scale[i] > 0 and i not in free
        }
        rising = [i for i, value in slope.items() if value > tolerance]
        if not rising:
            break
        entered = max(rising, key=slope.__getitem__)
        bisect.insort(free, entered)
        while True:
            wished = _solve([[unit[i][j] for j in free] for i in free], [aim[i] for i in free])
            if wished is None:  # it is a combination of those that are free already
                free.remove(entered)
                scale[entered] = 0.0
                break
            if min(wished) > 0:
                for i, value in zip(free, wished, strict=True):
                    found[i] = value
                break
            step = min(
                (
                    found[i] / (found[i] - value)
                    for i, value in zip(free, wished, strict=True)
                    if value <= 0 and found[i] > value
                ),
                default=0.0,
            )
            for i, value in zip(free, wished, strict=True):
                found[i] += step * (value - found[i])
            left = [i for i in free if found[i] > 0 and found[i] > _TINY * max(found)]
            for i in set(free) - set(left):
                found[i] = 0.0
            free = left
            if not free:
                break
    return [found[i] * scale[i] for i in range(size)]


def inverse_diagonal(gram: Sequence[Sequence[float]]) -> list[float]:
    """Return the diagonal of a symmetric matrix's inverse; 0 where it cannot be inverted."""
    size = len(gram)
    scale = [gram[i][i] ** -0.5 if gram[i][i] > 0 else 0.0 for i in range(size)]
    used = [i for i in range(size) if scale[i] > 0]
    unit = [[gram[i][j] * scale[i] * scale[j] for j in used] for i in used]
    diagonal = [0.0] * size
    for row, i in enumerate(used):
        column = _solve(unit, [float(row == other) for other in range(len(used))])
        if column is not None:
            diagonal[i] = max(column[row], 0.0) * scale[i] ** 2
    return diagonal


def _solve(matrix: list[list[float]], right: list[float]) -> list[float] | None:
    """Solve by elimination with pivoting; None if the matrix is singular."""
    size = len(right)
    rows = [[*line, value] for line, value in zip(matrix, right, strict=True)]
    for at in range(size):
        best = at
        for number in range(at + 1, size):
            if abs(rows[number][at]) > abs(rows[best][at]):
                best = number
        rows[at], rows[best] = rows[best], rows[at]
        upper = rows[at]
        pivot = upper[at]
        if abs(pivot) < _TINY:
            return None
        rest = upper[at:]
        for lower in rows[at + 1 :]:
            factor = lower[at] / pivot
            if factor:
                left = zip(lower[at:], rest, strict=True)
                lower[at:] = [value - factor * above for value, above in left]
    answer = [0.0] * size
    for at in reversed(range(size)):
        row = rows[at]
        known = sum([a * b for a, b in zip(row[at + 1 : -1], answer[at + 1 :], strict=True)])
        answer[at] = (row[-1] - known) / row[at]
    return answer
