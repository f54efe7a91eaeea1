"""Fixtures of the tests that ask a whole front over HTTP."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support.byte_base import make_byte_base
from tests.support.front_wiring import SharedParts
from tests.support.http_front import HttpFront, OpenFront, http_front


@pytest.fixture(scope="session")
def shared_parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedParts]:
    """Make a tokenizer, adapters and a router, once."""
    shared = SharedParts(make_byte_base(tmp_path_factory.mktemp("byte-base")))
    yield shared
    shared.close()


@pytest.fixture
def open_front(shared_parts: SharedParts, tmp_path: Path) -> OpenFront:
    """Return ``open_front(replicas=1, **config)``, for tests of a configuration of their own."""

    def opened(**options: object) -> AbstractAsyncContextManager[HttpFront]:
        return http_front(shared_parts, tmp_path, **options)  # type: ignore[arg-type]

    return opened


@pytest.fixture
async def front(shared_parts: SharedParts, tmp_path: Path) -> AsyncIterator[HttpFront]:
    """Build a front over one replica."""
    async with http_front(shared_parts, tmp_path) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def steady_front(
    shared_parts: SharedParts, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[HttpFront]:
    """Build a front for all tests of a module that change nothing in it."""
    async with http_front(shared_parts, tmp_path_factory.mktemp("front")) as made:
        yield made
