"""Lists the fields of OpenAI's and vLLM's APIs that are not served, in one table.

A field is accepted at the values that switch it off, or at any value where it is a hint that
changes no answer. At any other value it is refused by name, because the answer would not be what
was asked for. The documentation of the HTTP API shows this table, and so does the OpenAPI document.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

CHAT = "chat"
COMPLETIONS = "completions"
BOTH = (CHAT, COMPLETIONS)

MAX_SHOWN_NAME = 64
TYPES: dict[str, type | tuple[type, ...]] = {
    "string": str,
    "object": dict,
    "boolean": bool,
    "array": list,
}
"""Names of JSON's types, and how they are read."""


@dataclass(frozen=True, slots=True)
class UnservedField:
    """Describes a field and what is accepted of it; null always is.

    Args:
        name: of the field.
        off: values at which it changes nothing.
        hint: the JSON type of which every value changes nothing; there are no others then.
        instead: what to do, as the end of the sentence that refuses it.
        endpoints: where it is known.
    """

    name: str
    off: tuple[Any, ...] = ()
    hint: str | None = None
    instead: str = ""
    endpoints: tuple[str, ...] = BOTH

    def accepts(self, value: Any) -> bool:
        """Return whether ``value`` changes nothing; 0 is not false here, as in JSON."""
        if value is None:
            return True
        if self.hint is not None:
            return isinstance(value, TYPES[self.hint])
        return any(_equal(value, off) for off in self.off)

    @property
    def json_schema(self) -> dict[str, Any]:
        """Return what is accepted, as a JSON schema."""
        if self.hint is not None:
            return {"type": [self.hint, "null"]}
        return {"enum": [*self.off, None]}

    @property
    def refusal(self) -> str:
        """Return the sentence behind the field's name when it is refused."""
        what = "not served" if self.hint is None else f"expected {self.hint} or null"
        return f"{what}: {self.instead}" if self.instead else what


TOOLS = "the model reads text; write them into a message"
OFF = "leave it out"
GREEDY = "use temperature, top_p and n"

TABLE = (
    # Hints, which say nothing of the answer.
    UnservedField("metadata", hint="object"),
    UnservedField("safety_identifier", hint="string"),
    UnservedField("prompt_cache_key", hint="string"),
    UnservedField("prompt_cache_retention", hint="string"),
    UnservedField("prompt_cache_options", hint="object"),
    UnservedField("guided_decoding_backend", hint="string"),
    UnservedField("include_reasoning", hint="boolean"),
    UnservedField("spaces_between_special_tokens", hint="boolean"),
    UnservedField(
        "service_tier", ("auto", "default"), instead="there is one tier; send auto or default"
    ),
    # Tools.
    UnservedField("tools", ([],), instead=TOOLS),
    UnservedField("tool_choice", ("none", "auto"), instead=TOOLS),
    UnservedField("parallel_tool_calls", hint="boolean"),
    UnservedField("functions", ([],), instead=TOOLS),
    UnservedField("function_call", ("none", "auto"), instead=TOOLS),
    # OpenAI's.
    UnservedField("store", (False,), instead="answers are not kept; send false"),
    UnservedField("modalities", (["text"],), instead='answers are text; send ["text"]'),
    UnservedField("audio", instead="answers are text; leave it out"),
    UnservedField("prediction", instead=OFF),
    UnservedField("moderation", instead=OFF),
    UnservedField("verbosity", ("medium",), instead="say it in a message, or use max_tokens"),
    UnservedField("web_search_options", instead=OFF),
    UnservedField("suffix", ("",), instead="the model completes at the end only; leave it out"),
    UnservedField("best_of", (1,), instead="send n, and choose among the answers"),
    # vLLM's.
    UnservedField("use_beam_search", (False,), instead=GREEDY),
    UnservedField("length_penalty", (1,), instead="it belongs to beam search; leave it out"),
    UnservedField("early_stopping", (False,), instead="it belongs to beam search; leave it out"),
    UnservedField("truncate_prompt_tokens", instead="shorten the prompt before it is sent"),
    UnservedField("truncation_side", instead="shorten the prompt before it is sent"),
    UnservedField("prompt_logprobs", instead="send echo and logprobs to /v1/completions"),
    UnservedField("allowed_token_ids", instead="use guided_choice, guided_regex or logit_bias"),
    UnservedField("bad_words", ([],), instead="use logit_bias"),
    UnservedField("priority", (0,), instead="tenants take turns; leave it out"),
    UnservedField("return_token_ids", (False,), instead="send logprobs, which has the tokens"),
    UnservedField(
        "return_tokens_as_token_ids", (False,), instead="send logprobs, which has the tokens"
    ),
    UnservedField("return_prompt_text", (False,), instead="send echo to /v1/completions"),
    UnservedField("detokenize", (True,), instead="answers are text; leave it out"),
    UnservedField("cache_salt", instead="the prefix cache is kept apart by tenant; leave it out"),
    UnservedField("request_id", instead="send it as the header x-request-id"),
    UnservedField("mm_processor_kwargs", ({},), instead="this model reads text; leave it out"),
    UnservedField("media_io_kwargs", ({},), instead="this model reads text; leave it out"),
    UnservedField("prompt_embeds", instead="send the prompt as text or as token ids"),
    UnservedField("logits_processors", ([],), instead="use logit_bias or a guided field"),
    UnservedField("guided_whitespace_pattern", instead="write it into guided_grammar"),
    UnservedField("structural_tag", instead="use guided_grammar"),
    UnservedField("thinking_token_budget", instead="use max_tokens"),
    UnservedField("repetition_detection", instead="use repetition_penalty"),
    UnservedField("kv_transfer_params", ({},), instead=OFF),
    UnservedField("vllm_xargs", ({},), instead=OFF),
    UnservedField("lora_adapter", instead="send the adapter's name as model"),
    UnservedField("documents", ([],), instead="write them into a message"),
    UnservedField("chat_template", instead="the model's own is used; leave it out"),
    # Fields of the other endpoint, or with another default there.
    UnservedField(
        "add_special_tokens",
        (False,),
        instead="the chat template has written them; leave it out",
        endpoints=(CHAT,),
    ),
    UnservedField(
        "add_special_tokens",
        (True,),
        instead="send the prompt as token ids to have none added",
        endpoints=(COMPLETIONS,),
    ),
    UnservedField("echo", (False,), instead="it belongs to /v1/completions", endpoints=(CHAT,)),
    UnservedField("prompt", instead="it belongs to /v1/completions", endpoints=(CHAT,)),
    UnservedField(
        "messages", instead="it belongs to /v1/chat/completions", endpoints=(COMPLETIONS,)
    ),
    UnservedField("max_completion_tokens", instead="send max_tokens", endpoints=(COMPLETIONS,)),
    UnservedField(
        "top_logprobs", (0,), instead="send logprobs as a number", endpoints=(COMPLETIONS,)
    ),
    UnservedField("add_generation_prompt", hint="boolean", endpoints=(COMPLETIONS,)),
    UnservedField(
        "continue_final_message",
        (False,),
        instead="a prompt is always continued; leave it out",
        endpoints=(COMPLETIONS,),
    ),
    UnservedField(
        "chat_template_kwargs",
        ({},),
        instead="it belongs to /v1/chat/completions",
        endpoints=(COMPLETIONS,),
    ),
    UnservedField(
        "reasoning_effort",
        instead="it belongs to /v1/chat/completions",
        endpoints=(COMPLETIONS,),
    ),
)


def fields_of(endpoint: str) -> dict[str, UnservedField]:
    """Return the rows of one endpoint, by name."""
    return {field.name: field for field in TABLE if endpoint in field.endpoints}


def check_unserved(
    given: Mapping[str, Any], table: Mapping[str, UnservedField], served: Iterable[str]
) -> None:
    """Refuse the first field that would change the answer, or that is unknown.

    Args:
        given: fields of a body that are not served, with their values.
        table: the endpoint's rows.
        served: names of its served fields, for a hint where one is misspelt.

    Raises:
        ValueError: with the field's name, and what to do.
    """
    for name, value in given.items():
        known = table.get(name)
        if known is None:
            shown = name[:MAX_SHOWN_NAME].replace(": ", ":_")
            raise ValueError(f"{shown}: unknown field{_near(name, [*served, *table])}")
        if not known.accepts(value):
            raise ValueError(f"{name}: {known.refusal}")


def _near(name: str, known: list[str]) -> str:
    near = get_close_matches(name[:MAX_SHOWN_NAME], known, n=1, cutoff=0.75)
    return f", the nearest that is known is {near[0]!r}" if near else ""


def _equal(value: Any, off: Any) -> bool:
    if isinstance(value, bool) or isinstance(off, bool):
        return value is off
    return bool(value == off)
