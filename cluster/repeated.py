"""Names that are given more than once, so that nobody can say which value is meant."""

from collections import Counter
from collections.abc import Iterable


def repeated(names: Iterable[str]) -> list[str]:
    """Those that are there more than once, sorted."""
    return sorted(name for name, count in Counter(names).items() if count > 1)
