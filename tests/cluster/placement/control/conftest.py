"""Fixtures of the controller's tests."""

import pytest


@pytest.fixture
def infos(build):
    return [build.info(name) for name in "abc"]
