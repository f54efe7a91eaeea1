"""A load whose parts change independently: prompts, answers, adapters, requests at once."""

import asyncio
import random
from collections.abc import Sequence

import httpx2

PROMPTS = (4, 16, 64, 200, 500)  # words
ANSWERS = (1, 8, 32, 96)  # tokens
CONCURRENCY = (1, 2, 4, 8, 16, 32)
PHASE_S = (2.0, 8.0)
WORDS = ("the", "a", "stone", "river", "light", "seven", "quick", "green", "north", "paper")


class MixedLoad:
    """Sends requests until it is cancelled.

    Every few seconds it draws the number of requests at once and their kinds again, so that no two
    counters of the replicas grow in one proportion.
    """

    def __init__(
        self, client: httpx2.AsyncClient, base: str, adapters: Sequence[str], seed: int
    ) -> None:
        self.sent = 0
        self.failed = 0
        self._client = client
        self._base = base
        self._adapters = tuple(adapters)
        self._rng = random.Random(seed)
        self._wanted = 1
        self._prompts: Sequence[int] = PROMPTS
        self._answers: Sequence[int] = ANSWERS
        self._hot: Sequence[str] = ()
        self._terms: Sequence[int] = (0,)

    async def run(self) -> None:
        """Send requests until cancelled."""
        live: set[asyncio.Task[None]] = set()
        loop = asyncio.get_running_loop()
        next_phase = loop.time()
        try:
            while True:
                if loop.time() >= next_phase:
                    self._draw_phase()
                    next_phase = loop.time() + self._rng.uniform(*PHASE_S)
                while len(live) < self._wanted:
                    live.add(asyncio.create_task(self._ask()))
                done, live = await asyncio.wait(
                    live, timeout=0.2, return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    task.result()
        finally:
            for task in live:
                task.cancel()
            await asyncio.gather(*live, return_exceptions=True)

    def _draw_phase(self) -> None:
        rng = self._rng
        self._wanted = rng.choice(CONCURRENCY)
        self._prompts = rng.sample(PROMPTS, rng.randint(1, 2))
        self._answers = rng.sample(ANSWERS, rng.randint(1, 2))
        self._hot = rng.sample(self._adapters, rng.randint(1, len(self._adapters)))
        self._terms = rng.choice(((0,), (1,), (0, 1), (1, 2)))

    async def _ask(self) -> None:
        rng = self._rng
        terms = min(rng.choice(self._terms), len(self._hot))
        body = {
            "model": self._base,
            "prompt": " ".join(rng.choice(WORDS) for _ in range(rng.choice(self._prompts))),
            "max_tokens": rng.choice(self._answers),
            "temperature": 0.0,
        }
        if terms:
            body["adapters"] = [
                {"name": name, "weight": 1.0 / terms} for name in rng.sample(self._hot, terms)
            ]
        self.sent += 1
        answer = await self._client.post("/v1/completions", json=body)
        self.failed += answer.status_code != 200
