"""Builds the prompts that choices begin with."""

from deployments.front.requests.prompt_request import PromptRequest
from deployments.front.sequences.sequence_answer import Echo
from deployments.front.text.prompt_types import PlainPrompts, Prompts
from deployments.front.text.text_stream import TextCodec


def echoes_of(request: PromptRequest, prompts: Prompts, codec: TextCodec) -> tuple[Echo, ...]:
    """Return an echo for each choice, or none if not asked for; texts are echoed as given."""
    if not request.echo or not isinstance(request.prompt, PlainPrompts):
        return ()
    echoes: list[Echo] = []
    for given, ids in zip(request.prompt.items, prompts.ids, strict=True):
        is_text = isinstance(given, str)
        text = given if isinstance(given, str) else codec.prompt_text(ids)
        offsets: tuple[int, ...] = ()
        if request.sampling.logprobs is not None:
            offsets = codec.prompt_offsets(text, ids, is_text=is_text)
        echoes += [Echo(text, ids, offsets)] * request.n
    return tuple(echoes)
