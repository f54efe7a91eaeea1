"""Maps the structured-output fields of a body to the form that the core compiles."""

from typing import Any

from deployments.front.openai.structured_fields import StructuredOutputs
from deployments.front.openai.wire import GenerationBody
from deployments.front.text.grammars import GrammarKind, GrammarRequest

ANY_OBJECT: dict[str, Any] = {"type": "object"}


def grammar_request(body: GenerationBody) -> GrammarRequest | None:
    """Return the form that a body asks for, or None for free text."""
    if body.guided_regex is not None:
        return GrammarRequest("guided_regex", GrammarKind.REGEX, body.guided_regex)
    if body.guided_choice is not None:
        return GrammarRequest("guided_choice", GrammarKind.CHOICE, body.guided_choice)
    if body.guided_grammar is not None:
        return GrammarRequest("guided_grammar", GrammarKind.LARK, body.guided_grammar)
    if body.guided_json is not None:
        return GrammarRequest("guided_json", GrammarKind.JSON_SCHEMA, body.guided_json)
    if body.structured_outputs is not None:
        return _given_member(body.structured_outputs)
    asked = body.response_format
    if asked is None or asked.type == "text":
        return None
    schema = ANY_OBJECT if asked.json_schema is None else asked.json_schema.wanted
    return GrammarRequest("response_format", GrammarKind.JSON_SCHEMA, schema)


def _given_member(asked: StructuredOutputs) -> GrammarRequest:
    """Map the one member that is given."""
    field = f"structured_outputs.{asked.given[0]}"
    if asked.regex is not None:
        return GrammarRequest(field, GrammarKind.REGEX, asked.regex)
    if asked.choice is not None:
        return GrammarRequest(field, GrammarKind.CHOICE, asked.choice)
    if asked.grammar is not None:
        return GrammarRequest(field, GrammarKind.LARK, asked.grammar)
    schema = ANY_OBJECT if asked.wanted_json is None else asked.wanted_json
    return GrammarRequest(field, GrammarKind.JSON_SCHEMA, schema)
