"""Logs what happens to single requests: ids and counts, never tokens."""

from collections.abc import Iterable

import structlog

from cluster.engine.sequence import EngineSequence
from cluster.errors import BraidError

log = structlog.get_logger(__name__)


def note_preempted(sequences: Iterable[EngineSequence]) -> None:
    """Log sequences that lost their place in the batch and whose tokens are computed again."""
    for sequence in sequences:
        log.info(
            "engine.preempted",
            request=sequence.request.http_request,
            sequence=sequence.request_id,
            tokens=sequence.num_tokens,
            times=sequence.num_preemptions,
        )


def note_failed(sequence: EngineSequence, error: BraidError) -> None:
    """Log a sequence that was ended by an error, whose cause another line has."""
    log.error(
        "engine.request_failed",
        request=sequence.request.http_request,
        sequence=sequence.request_id,
        code=error.code,
        tokens=sequence.num_generated,
    )
