"""Serve's answers as a test writes them: a real one cannot be made to fail between two calls."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from deployments.controller import serve_target


class WrittenServe:
    """Answers as Serve does, while ``silent`` is false."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.target = 0
        self.silent = False
        self.sets: list[int] = []
        self.answering = asyncio.Event()
        self.answering.set()
        monkeypatch.setattr(serve_target, "read_deployments", self.read)
        monkeypatch.setattr(serve_target, "set_target", self.set)
        monkeypatch.setattr(serve_target, "head_node", self.head)

    async def read(self, app: str, names: tuple[str, ...], timeout_s: float) -> list[Any]:
        self._answer()
        state = SimpleNamespace(value="RUNNING")
        replicas = [
            SimpleNamespace(replica_id=f"r{number}", node_id="n", state=state)
            for number in range(self.target)
        ]
        own = SimpleNamespace(target_num_replicas=self.target, replicas=replicas)
        return [own, *(SimpleNamespace(replicas=[]) for _ in names[1:])]

    async def set(self, app: str, name: str, count: int, timeout_s: float) -> None:
        await self.answering.wait()
        self._answer()
        self.target = count
        self.sets.append(count)

    async def head(self) -> str:
        self._answer()
        return "n"

    def _answer(self) -> None:
        if self.silent:
            raise TimeoutError
