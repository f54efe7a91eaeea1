"""One choice, driven chunk by chunk."""

import asyncio
from collections.abc import AsyncIterator

from cluster.domain.request import GenerationChunk
from deployments.front.sequences.choice import Choice
from deployments.front.sequences.sequence_answer import Delta


async def run_choice(choice: Choice) -> AsyncIterator[Delta]:
    """Yield deltas until the choice is over, each before the next chunk is read."""
    while not choice.is_over:
        chunks: asyncio.Queue[GenerationChunk | None] = asyncio.Queue()
        await choice.submit_to_replica(chunks)
        delta: Delta | None = None
        while not choice.is_over and (delta := choice.take_chunk(await chunks.get())) is not None:
            yield delta
