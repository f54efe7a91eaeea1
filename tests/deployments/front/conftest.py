"""Fixtures of the tests that ask a whole front over HTTP."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from tests.support.byte_base import make_byte_base
from tests.support.http_front import HttpFront, OpenFront, SharedParts, http_front


@pytest.fixture(scope="session")
def shared_parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedParts]:
    """A tokenizer, adapters and a router, made once."""
    shared = SharedParts(make_byte_base(tmp_path_factory.mktemp("byte-base")))
    yield shared
    shared.close()


@pytest.fixture
def open_front(shared_parts: SharedParts, tmp_path: Path) -> OpenFront:
    """``open_front(replicas=1, **config)`` for tests of a configuration of their own."""

    def opened(**options: object) -> AbstractAsyncContextManager[HttpFront]:
        return http_front(shared_parts, tmp_path, **options)  # type: ignore[arg-type]

    return opened


@pytest.fixture
async def front(shared_parts: SharedParts, tmp_path: Path) -> AsyncIterator[HttpFront]:
    """A front over one replica."""
    async with http_front(shared_parts, tmp_path) as made:
        yield made
