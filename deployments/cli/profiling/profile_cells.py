"""Kinds of load that a cost profile is measured under."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

RANKS = (8, 64)
PROMPTS = (16, 64, 256, 1024, 2048)
SHORT_PROMPTS = (16, 128)
ANSWER = 8  # tokens of each


@dataclass(frozen=True, slots=True)
class ProfileCell:
    """Requests that are submitted at once."""

    requests: int
    prompt: int  # tokens of each
    adapters: int  # distinct ones, dealt out evenly; 0: the base alone
    rank: int  # of all of them


def profile_cells(
    *, max_batch: int, slots: Mapping[int, int], longest: int, room: int, quick: bool
) -> list[ProfileCell]:
    """Return the cells that an engine has room for.

    Args:
        max_batch: sequences that run at once.
        slots: adapters there are of each rank.
        longest: prompt and answer together, in tokens.
        room: tokens in the KV cache.
        quick: fewer of them.
    """
    rows = [1, max(1, max_batch // 4), max_batch] if quick else list(_doubling(max_batch))
    prompts = [p for p in PROMPTS if p + ANSWER <= longest] or [longest - ANSWER]
    cells = {
        ProfileCell(requests, prompt, min(count, requests), rank)
        for rank, most in slots.items()
        for count in (0, 1, most)
        for requests, prompt in (
            *((1, prompt) for prompt in prompts),
            *((requests, prompt) for requests in rows for prompt in SHORT_PROMPTS),
        )
        if prompt > 0 and requests * (prompt + ANSWER) <= room and prompt + ANSWER <= longest
    }
    return sorted(cells, key=lambda c: (c.rank, c.adapters, c.requests, c.prompt))


def _doubling(most: int) -> Iterator[int]:
    count = 1
    while count < most:
        yield count
        count *= 2
    yield most
