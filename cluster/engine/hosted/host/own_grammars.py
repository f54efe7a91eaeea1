"""Lets vLLM follow grammars in llguidance's own JSON, which replicas send."""

from typing import Any

from vllm.v1.structured_output import backend_guidance
from vllm.v1.structured_output.backend_types import StructuredOutputOptions


def take_own_grammars() -> None:
    """Hand grammars to llguidance as they are; vLLM reads them as Lark or GBNF."""
    serialize = backend_guidance.serialize_guidance_grammar

    def serialize_guidance_grammar(request_type: Any, grammar_spec: Any, *rest: Any) -> Any:
        if request_type is StructuredOutputOptions.GRAMMAR:
            return grammar_spec
        return serialize(request_type, grammar_spec, *rest)

    backend_guidance.serialize_guidance_grammar = serialize_guidance_grammar
