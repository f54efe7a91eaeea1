"""Defines the fields of a chat body that its template reads."""

import json
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, WithJsonSchema

MAX_JSON_CHARACTERS = 16 * 1024
MAX_KEY_CHARACTERS = 64
VARIABLE = "[A-Za-z][A-Za-z0-9_]*"

FIELDS = frozenset({"add_generation_prompt", "continue_final_message", "reasoning_effort"})
"""Fields of a body; a template has them from there."""

RESERVED = FIELDS | {
    "chat_template",
    "conversation",
    "documents",
    "max_length",
    "messages",
    "padding",
    "return_assistant_tokens_mask",
    "return_dict",
    "return_tensors",
    "sanitize_control_tokens",
    "self",
    "tokenize",
    "tokenizer_kwargs",
    "tools",
    "truncation",
}
"""Holds names that a template has from the server, and those that steer the rendering."""

ReasoningEffort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


def _usable(kwargs: dict[str, Any]) -> dict[str, Any]:
    for name in kwargs:
        if name in FIELDS:
            raise ValueError(f"{name} is a field of the body: give it there")
        if name in RESERVED or name.endswith("_token"):
            raise ValueError(f"{name[:MAX_KEY_CHARACTERS]} is the server's own: leave it out")
        if len(name) > MAX_KEY_CHARACTERS or re.fullmatch(VARIABLE, name) is None:
            raise ValueError(
                f"{name[:MAX_KEY_CHARACTERS]!r} cannot be a variable of a template: expected an "
                f"ASCII identifier of at most {MAX_KEY_CHARACTERS} characters"
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
                "pattern": f"^{VARIABLE}$",
                "maxLength": MAX_KEY_CHARACTERS,
                "not": {"anyOf": [{"enum": sorted(RESERVED)}, {"pattern": "_token$"}]},
            },
        }
    ),
]
"""Variables for the chat template, such as ``enable_thinking``."""
