"""Checks what must hold of sequences in the batch and outside it, whatever the schedule."""

from collections.abc import Collection

from cluster.engine.scheduling.block_pool import BlockPool
from cluster.engine.sequence import EngineSequence, SequenceStatus
from cluster.errors import IntegrityError


def check_batch(running: Collection[EngineSequence], max_batch_size: int, pool: BlockPool) -> None:
    """Raise IntegrityError unless those in the batch fit it, with blocks for what is computed."""
    if len(running) > max_batch_size:
        raise IntegrityError(f"{len(running)} sequences run, expected at most {max_batch_size}")
    for sequence in running:
        needed = pool.blocks_for(sequence.num_computed)
        if sequence.status is not SequenceStatus.RUNNING or len(sequence.block_table) < needed:
            raise IntegrityError(
                f"{sequence.request_id} runs as {sequence.status} with "
                f"{len(sequence.block_table)} blocks, expected at least {needed}"
            )


def check_waiting(waiting: Collection[EngineSequence]) -> None:
    """Raise IntegrityError where one that waits holds blocks, or is not said to wait."""
    for sequence in waiting:
        if sequence.status is not SequenceStatus.WAITING or sequence.block_table:
            raise IntegrityError(
                f"{sequence.request_id} waits as {sequence.status} with "
                f"{len(sequence.block_table)} blocks, expected 0"
            )


def check_order(admitted: Collection[EngineSequence]) -> None:
    """Raise IntegrityError unless those admitted, running and preempted, are in that order."""
    admissions = [sequence.admission for sequence in admitted]
    if admissions != sorted(set(admissions)) or min(admissions, default=0) < 0:
        raise IntegrityError(f"sequences are in the order of admissions {admissions}")
