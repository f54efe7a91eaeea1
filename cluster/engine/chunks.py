"""What is told to whoever asked for a sequence: the chunk of a step, and the last one."""

from cluster.domain.request import GenerationChunk
from cluster.engine.sequence import Sequence
from cluster.engine.step_output import StepOutput
from cluster.errors import BraidError


def step_chunk(
    sequence: Sequence, output: StepOutput, *, sampled: bool, span_start: int | None
) -> GenerationChunk | None:
    """What a committed step has for a sequence that it computed; None where that is nothing.

    Args:
        sampled: the sequence has a token from this step.
        span_start: where the span begins whose first token this step computed.
    """
    request_id = sequence.request_id
    prompt_logprobs = output.prompt_logprobs.get(request_id, ())
    site_weights = output.decided.get(request_id)
    finished = sequence.is_finished
    if not (sampled or finished or prompt_logprobs or site_weights is not None):
        return None
    logprobs = output.logprobs.get(request_id) if sampled else None
    return GenerationChunk(
        request_id=request_id,
        token_ids=(sequence.token_ids[-1],) if sampled else (),
        logprobs=() if logprobs is None else (logprobs,),
        finish_reason=sequence.finish_reason,
        usage=sequence.usage if finished else None,
        prompt_logprobs=prompt_logprobs,
        site_weights=site_weights,
        gate_weights=output.gate_weights.get(request_id, ()) if sampled else (),
        span_start=span_start if sampled else None,
    )


def last_chunk(sequence: Sequence, error: BraidError | None = None) -> GenerationChunk:
    """The chunk that ends a sequence without a token."""
    return GenerationChunk(
        request_id=sequence.request_id,
        finish_reason=sequence.finish_reason,
        usage=sequence.usage,
        error_code=None if error is None else error.code,
        error_message=None if error is None else error.message,
    )
