"""Maps bodies of OpenAI's API to the requests that the core takes."""

from cluster.domain.request import SamplingParams
from deployments.front.openai.structured import grammar_request
from deployments.front.openai.wire import (
    AdapterTerm,
    ChatBody,
    CompletionBody,
    GenerationBody,
    Message,
    RouteBody,
)
from deployments.front.requests.prompt_request import ANY_LENGTH, Endpoint, PromptRequest
from deployments.front.text.chat_template import PLAIN, TemplateOptions
from deployments.front.text.prompt_types import Conversation, PlainPrompts
from router_service.routing_request import MixtureTerm

COMPLETION_MAX_TOKENS = 16
"""Tokens that ``/v1/completions`` generates by default, as OpenAI's does."""


def chat_request(body: ChatBody) -> PromptRequest:
    """Map ``POST /v1/chat/completions``."""
    return PromptRequest(
        endpoint=Endpoint.CHAT,
        model=body.model,
        adapters=_terms(body.adapters),
        prompt=_conversation(body.messages, body.routing_turns, template_options(body)),
        sampling=_sampling(
            body,
            max_tokens=body.max_tokens or body.max_completion_tokens or ANY_LENGTH,
            logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        ),
        grammar=grammar_request(body),
        n=body.n or 1,
        stop=body.stop_strings,
        skip_special_tokens=body.skip_special_tokens is not False,
        include_stop=bool(body.include_stop_str_in_output),
        explain=bool(body.explain),
        logprobs_field="top_logprobs",
    )


def completion_request(body: CompletionBody) -> PromptRequest:
    """Map ``POST /v1/completions``."""
    return PromptRequest(
        endpoint=Endpoint.COMPLETIONS,
        model=body.model,
        adapters=_terms(body.adapters),
        prompt=_plain(body),
        sampling=_sampling(
            body,
            max_tokens=COMPLETION_MAX_TOKENS if body.max_tokens is None else body.max_tokens,
            logprobs=body.logprobs,
            prompt_logprobs=body.logprobs if body.echo else None,
        ),
        grammar=grammar_request(body),
        n=body.n or 1,
        stop=body.stop_strings,
        skip_special_tokens=body.skip_special_tokens is not False,
        include_stop=bool(body.include_stop_str_in_output),
        echo=bool(body.echo),
        explain=bool(body.explain),
    )


def route_request(body: RouteBody) -> PromptRequest:
    """Map ``POST /v1/route``."""
    prompt: Conversation | PlainPrompts
    if body.prompt is None:
        prompt = _conversation(body.messages or [], body.routing_turns, PLAIN)
    else:
        prompt = PlainPrompts((body.prompt,))
    return PromptRequest(
        endpoint=Endpoint.ROUTE,
        model=body.model,
        adapters=_terms(body.adapters),
        prompt=prompt,
        explain=bool(body.explain),
    )


def template_options(body: ChatBody) -> TemplateOptions:
    """Return how the messages are rendered; a message that is continued has nothing after it."""
    continued = bool(body.continue_final_message)
    asked = body.add_generation_prompt
    return TemplateOptions(
        add_generation_prompt=not continued if asked is None else asked,
        continue_final_message=continued,
        reasoning_effort=body.reasoning_effort,
        variables=body.chat_template_kwargs or {},
    )


def _terms(adapters: list[AdapterTerm] | None) -> tuple[MixtureTerm, ...] | None:
    if adapters is None:
        return None
    return tuple(MixtureTerm(term.name, term.weight) for term in adapters)


def _conversation(
    messages: list[Message], turns: tuple[str, ...], options: TemplateOptions
) -> Conversation:
    parts = sum(1 if isinstance(m.content, str) else len(m.content or ()) for m in messages)
    return Conversation(tuple(m.for_template() for m in messages), turns, options, parts)


def _plain(body: CompletionBody) -> PlainPrompts:
    """Map the prompt: a text, its token ids, or a list of either."""
    prompt = body.prompt
    if isinstance(prompt, str):
        return PlainPrompts((prompt,))
    if isinstance(prompt[0], int):
        return PlainPrompts((tuple(item for item in prompt if isinstance(item, int)),))
    return PlainPrompts(
        tuple(
            item if isinstance(item, str) else tuple(item)
            for item in prompt
            if not isinstance(item, int)
        )
    )


def _sampling(
    body: GenerationBody,
    *,
    max_tokens: int,
    logprobs: int | None,
    prompt_logprobs: int | None = None,
) -> SamplingParams:
    temperature, top_p = body.temperature, body.top_p
    if top_p == 0:  # the narrowest nucleus is the likeliest token
        temperature, top_p = 0.0, None
    return SamplingParams(
        max_tokens=max_tokens,
        temperature=1.0 if temperature is None else temperature,
        top_p=1.0 if top_p is None else top_p,
        top_k=max(0, body.top_k or 0),
        seed=body.seed,
        stop_token_ids=tuple(body.stop_token_ids or ()),
        logprobs=logprobs,
        ignore_eos=bool(body.ignore_eos),
        min_p=body.min_p or 0.0,
        presence_penalty=body.presence_penalty or 0.0,
        frequency_penalty=body.frequency_penalty or 0.0,
        repetition_penalty=1.0 if body.repetition_penalty is None else body.repetition_penalty,
        logit_bias=tuple(
            sorted((int(token), bias) for token, bias in (body.logit_bias or {}).items())
        ),
        min_tokens=body.min_tokens or 0,
        prompt_logprobs=prompt_logprobs,
        explain=bool(body.explain),
    )
