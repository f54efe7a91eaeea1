"""Scores: exact text, the value of an equation, and how sure a share is."""

import ast
import math
import operator
from collections.abc import Callable

_OPERATORS: dict[type[ast.AST], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_MAX_CHARACTERS = 500
_TOLERANCE = 1e-4


def is_exact(answered: str, wanted: str) -> bool:
    """Compare two texts; white space around them does not count."""
    return answered.strip() == wanted.strip()


def has_value(answered: str, wanted: float) -> bool:
    """Check if an answer such as ``X=(8.0*4.0)`` or ``32`` comes to a number."""
    value = equation_value(answered)
    return value is not None and math.isclose(value, wanted, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)


def equation_value(text: str) -> float | None:
    """Compute an expression of numbers, + - * / and brackets; returns None if it is not one.

    What stands before a single ``=`` is left out if it is a name: ``X=1+2`` is 3.
    """
    name, equals, right = text.strip().partition("=")
    expression = right if equals and name.strip().isidentifier() else text
    if len(expression) > _MAX_CHARACTERS:
        return None
    try:
        value = _evaluate(ast.parse(expression.strip(), mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError, OverflowError, RecursionError):
        return None
    return value if math.isfinite(value) else None


def _evaluate(node: ast.AST) -> float:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return float(number)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_evaluate(operand)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _OPERATORS[type(op)](_evaluate(left), _evaluate(right))
    raise ValueError("not arithmetic")


def wilson(successes: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """Compute Wilson's interval of a share; z = 1.96 is 95 %."""
    share = successes / n
    centre = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)
