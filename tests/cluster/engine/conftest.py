"""Provides what every engine test gets."""

from collections.abc import Iterator

import pytest
import structlog


@pytest.fixture(autouse=True)
def logs() -> Iterator[list]:
    """Log entries of the test, kept instead of printed."""
    with structlog.testing.capture_logs() as entries:
        yield entries
