"""A model whose keys and values are names: what each token's entry is a function of."""

import zlib

from cluster.domain.ids import Slot
from cluster.engine.scheduling.block_pool import BlockPool
from cluster.engine.sequence import EngineSequence

STOP = 0
Path = tuple[tuple[int, str], ...]  # from which token on which namespace was computed with
Entry = tuple[Path, tuple[int, ...]]  # (namespaces, all tokens up to this one)
SLOTS = {"x": (Slot(1),), "y": (Slot(2),), "z": (Slot(1), Slot(2))}


def mixture(namespace: str) -> tuple[tuple[Slot, float], ...]:
    """Return the adapters of a namespace."""
    return tuple((slot, 1.0) for slot in SLOTS[namespace])


def entry_of(path: Path, tokens: list[int]) -> Entry:
    """Return the entry of the last of ``tokens``; a change to the same namespace does not count."""
    taken: list[tuple[int, str]] = []
    for start, namespace in path:
        if start < len(tokens) and (not taken or taken[-1][1] != namespace):
            taken.append((start, namespace))
    return tuple(taken), tuple(tokens)


def path_of(sequence: EngineSequence) -> Path:
    """Return what a sequence's tokens are to be computed with."""
    return tuple((span.start, span.namespace) for span in sequence.spans)


def next_token(entry: Entry) -> int:
    """Return 1 to 3, or the stop token in one case of 40: other histories often look the same."""
    drawn = zlib.crc32(repr(entry).encode())
    return STOP if drawn % 40 == 0 else 1 + drawn // 40 % 3


def alone(path: Path, tokens: list[int], max_len: int) -> list[int]:
    """Compute a request's tokens at its end, without a scheduler."""
    tokens = list(tokens)
    while len(tokens) < max_len:
        tokens.append(next_token(entry_of(path, tokens)))
        if tokens[-1] == STOP:
            break
    return tokens


def used_blocks(pool: BlockPool) -> int:
    """Count the blocks with at least one holder."""
    return sum(pool.ref_count(block) > 0 for block in range(pool.num_blocks))
