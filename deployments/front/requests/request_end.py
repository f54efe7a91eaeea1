"""What the log's line of a request says of its generation, once that has ended."""

from typing import TYPE_CHECKING

from cluster.domain.request import Outcome
from deployments.front.telemetry.request_log import current_record, longest, milliseconds

if TYPE_CHECKING:
    from deployments.front.requests.request_service import Running


def note_end(running: "Running", error: BaseException | None, now: float) -> None:
    """Note tokens, times and how it ended; writes the line where the answer has begun already.

    Until then what is answered is not known, and whoever sends the answer writes the line.

    Args:
        now: monotonic, seconds.
    """
    record = current_record()
    per_prompt = max(1, len(running.choices) // running.prompts)
    prompts = [len(item.spec.prompt_token_ids) for item in running.generations[::per_prompt]]
    usages = [choice.usage for choice in running.choices if choice.usage is not None]
    cached = [choice.usage for choice in running.choices[::per_prompt] if choice.usage is not None]
    sentences = sum(
        len(item.rerouting.sentences) - 1
        for item in running.generations
        if item.rerouting is not None
    )
    first = running.first_token_at
    record.endpoint = running.endpoint
    record.outcome = running.outcome
    record.fields |= {
        "replica": running.replica or None,
        "choices": len(running.choices),
        "prompt_tokens": sum(prompts),
        "cached_tokens": sum(usage.cached_tokens for usage in cached),
        "completion_tokens": sum(len(choice.token_ids) for choice in running.choices),
        "sentences": sentences or None,
        "failovers": sum(item.failovers for item in running.generations) or None,
        "queue_ms": longest([usage.queued_s for usage in usages if usage.queued_s is not None]),
        "ttft_ms": None if first is None else milliseconds(first - record.started),
    }
    if error is not None:
        record.fail(error, running.outcome or Outcome.FAILED_ENGINE)
    if record.status is not None:
        record.write(now)
