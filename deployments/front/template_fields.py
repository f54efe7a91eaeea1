"""The fields of a chat body that its template reads."""

import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, WithJsonSchema

MAX_JSON_CHARACTERS = 16 * 1024
MAX_KEY_CHARACTERS = 64

FIELDS = frozenset({"add_generation_prompt", "continue_final_message", "reasoning_effort"})
"""Fields of a body; a template has them from there."""

RESERVED = FIELDS | {
    "bos_token",
    "chat_template",
    "conversation",
    "documents",
    "eos_token",
    "max_length",
    "messages",
    "pad_token",
    "padding",
    "return_assistant_tokens_mask",
    "return_dict",
    "return_tensors",
    "sanitize_control_tokens",
    "tokenize",
    "tokenizer_kwargs",
    "tools",
    "truncation",
    "unk_token",
}
"""What a template has from the server, or what steers the rendering."""

ReasoningEffort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


def _usable(kwargs: dict[str, Any]) -> dict[str, Any]:
    for name in kwargs:
        if name in FIELDS:
            raise ValueError(f"{name} is a field of the body: give it there")
        if name in RESERVED or name.startswith("_") or name.endswith("_token"):
            raise ValueError(f"{name[:MAX_KEY_CHARACTERS]} is the server's own: leave it out")
        if not name.isidentifier() or len(name) > MAX_KEY_CHARACTERS:
            raise ValueError(
                f"{name[:MAX_KEY_CHARACTERS]!r} cannot be a variable of a template: expected an "
                f"identifier of at most {MAX_KEY_CHARACTERS} characters"
            )
    size = len(json.dumps(kwargs))
    if size > MAX_JSON_CHARACTERS:
        raise ValueError(f"expected at most {MAX_JSON_CHARACTERS} characters of JSON, found {size}")
    return kwargs


TemplateKwargs = Annotated[
    dict[str, Any],
    AfterValidator(_usable),
    WithJsonSchema(
        {
            "type": "object",
            "propertyNames": {
                "pattern": "^[A-Za-z][A-Za-z0-9_]*$",
                "maxLength": MAX_KEY_CHARACTERS,
                "not": {"enum": sorted(RESERVED)},
            },
        }
    ),
]
"""Variables for the chat template, such as ``enable_thinking``."""
