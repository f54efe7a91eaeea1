"""Completes the log's line of a request once its generation has ended."""

import asyncio

from starlette.requests import ClientDisconnect

from cluster.domain.request import Outcome
from cluster.errors import BraidError
from deployments.front.http.problem import outcome_of
from deployments.front.requests.explain import pick_body
from deployments.front.requests.running import Running
from deployments.front.telemetry.request_log import current_record, longest, milliseconds


def outcome_of_end(error: BaseException | None) -> Outcome:
    """Return the outcome of a request that ended with ``error``, or without one."""
    if error is None:
        return Outcome.COMPLETED
    if isinstance(error, BraidError):
        return outcome_of(error)
    if isinstance(error, asyncio.CancelledError | GeneratorExit | ClientDisconnect):
        return Outcome.CANCELLED
    return Outcome.FAILED_ENGINE


def note_end(running: Running, error: BaseException | None, now: float) -> None:
    """Note tokens, times and outcome; writes the line if the answer has begun already.

    Before that, the status is not known, and the code that sends the answer writes the line.

    Args:
        now: monotonic, seconds.
    """
    record = current_record()
    n, choices = running.request.n, running.choices
    usages = [answer.usage for answer in running.answers]
    sentences = sum(
        len(choice.rerouting.sentences) - 1 for choice in choices if choice.rerouting is not None
    )
    first = running.times.first_token_at
    picked = choices[0].picked
    explanation = None if picked is None else picked.explanation
    record.endpoint = running.request.endpoint.value
    record.outcome = running.outcome
    record.fields |= {
        "replica": running.replica or None,
        "pick": None if explanation is None else pick_body(explanation),
        "choices": len(choices),
        "prompt_tokens": sum(len(choice.spec.prompt_token_ids) for choice in choices[::n]),
        "cached_tokens": sum(usage.cached_tokens for usage in usages[::n] if usage is not None),
        "completion_tokens": sum(choice.generated for choice in choices),
        "sentences": sentences or None,
        "failovers": sum(choice.failovers for choice in choices) or None,
        "queue_ms": longest(
            [usage.queued_s for usage in usages if usage is not None and usage.queued_s is not None]
        ),
        "ttft_ms": None if first is None else milliseconds(first - record.started),
    }
    if error is not None:
        record.fail(error, running.outcome or Outcome.FAILED_ENGINE)
    if record.status is not None:
        record.write(now)
