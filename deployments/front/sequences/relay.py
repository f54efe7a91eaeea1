"""Brings the tokens of all choices of one request to its one reader.

Chunks are put into one queue for the whole request as they arrive, and everything that has arrived
is handled in one wake-up of the reader. The first token is never held back: the reader is woken as
soon as the queue holds anything.
"""

import asyncio
from collections.abc import Sequence

from cluster.domain.request import GenerationChunk
from deployments.front.sequences.choice import Choice
from deployments.front.sequences.sequence_answer import Delta
from deployments.front.sequences.token_times import TokenTimes

Arrival = GenerationChunk | Exception | None
"""A chunk, the reason why no replica was found, or None for a lost replica."""


class ChoiceInbox:
    """Puts the chunks of one choice into the request's queue."""

    __slots__ = ("_choice", "_relay")

    def __init__(self, relay: "Relay", choice: Choice) -> None:
        self._relay = relay
        self._choice = choice

    def put_nowait(self, item: GenerationChunk | None) -> None:
        """Queue a chunk, or None when the replica was lost."""
        self._relay.put_arrival(self._choice, item)

    def empty(self) -> bool:
        """Return whether everything has been read."""
        return self._relay.is_read


class Relay:
    """Submits the choices of a request and hands out their deltas, on one event loop.

    Args:
        choices: of the request, in order.
        times: notes when tokens came.
    """

    def __init__(self, choices: Sequence[Choice], times: TokenTimes) -> None:
        self._choices = choices
        self._times = times
        self._arrivals: list[tuple[Choice, Arrival]] = []
        self._reader: asyncio.Future[None] | None = None
        self._failure: BaseException | None = None
        self._submitting: set[asyncio.Task[None]] = set()
        self._has_begun = False

    @property
    def is_read(self) -> bool:
        """Return whether the queue is empty."""
        return not self._arrivals

    async def next_deltas(self) -> list[tuple[Choice, Delta]]:
        """Wait for tokens; returns all that have come, in order, or none after the last.

        Raises:
            BraidError: a choice failed. Deltas that had come before it are returned first.
        """
        if not self._has_begun:
            self._has_begun = True
            for choice in self._choices:
                self._submit(choice)
        while True:
            if self._failure is not None:
                raise self._failure
            deltas = self._take_arrivals()
            if deltas:
                self._times.note(deltas)
                return deltas
            if self._failure is not None:
                continue
            if all(choice.is_over for choice in self._choices):
                return []
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader

    def put_arrival(self, choice: Choice, item: Arrival) -> None:
        """Queue what came for a choice, and wake the reader."""
        self._arrivals.append((choice, item))
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def close(self) -> None:
        """Cancel what is not over; harmless when called again."""
        for task in self._submitting:
            task.cancel()
        for choice in self._choices:
            choice.cancel()

    def _take_arrivals(self) -> list[tuple[Choice, Delta]]:
        arrivals, self._arrivals = self._arrivals, []
        deltas: list[tuple[Choice, Delta]] = []
        try:
            for choice, item in arrivals:
                if choice.is_over:  # what comes behind a stop string
                    continue
                if isinstance(item, Exception):
                    raise item
                delta = choice.take_chunk(item)
                if delta is None:
                    self._submit(choice)
                else:
                    deltas.append((choice, delta))
        except Exception as error:
            self._failure = error
        return deltas

    def _submit(self, choice: Choice) -> None:
        task = asyncio.create_task(self._submit_or_fail(choice))
        self._submitting.add(task)
        task.add_done_callback(self._submitting.discard)

    async def _submit_or_fail(self, choice: Choice) -> None:
        try:
            await choice.submit_to_replica(ChoiceInbox(self, choice))
        except Exception as error:
            self.put_arrival(choice, error)
