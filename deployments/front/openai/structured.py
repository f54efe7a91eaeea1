"""From the structured-output fields of a body to the grammar that the engine follows."""

import json
from collections import OrderedDict
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from llguidance import LLMatcher

from cluster.domain.ids import TenantId
from cluster.errors import GrammarTooComplex, RequestError
from deployments.front.openai.structured_fields import StructuredOutputs
from deployments.front.openai.wire import GenerationBody
from deployments.front.openai.wire_types import field_error
from deployments.front.text.grammar_trial import GrammarTrial

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

MAX_GRAMMAR_CHARS = 256 * 1024
MAX_CHECKED = 256
MAX_PROBLEM_CHARS = 500
ANY_OBJECT: dict[str, Any] = {"type": "object"}

JSON_OPTIONS: "JsonCompileOptions" = {"whitespace_pattern": r"[ \t\n]{0,20}"}
"""Any usual layout, but no endless white space, which small models are prone to."""


class GrammarChecker:
    """Makes grammars of bodies; remembers those it has tried, good or not.

    Args:
        trial: where a grammar that is new is tried.
    """

    def __init__(self, trial: GrammarTrial) -> None:
        self._trial = trial
        self._checked: OrderedDict[bytes, tuple[str, str]] = OrderedDict()  # kind, problem

    async def grammar_of(self, tenant: TenantId, body: GenerationBody) -> str:
        """The grammar of an answer as llguidance's JSON text; empty where text is free.

        Raises:
            RequestError: it cannot be compiled; ``param`` names the field.
            GrammarTooComplex: it cannot be followed within the limits; likewise.
            Overloaded: too many grammars wait to be tried.
        """
        field, grammar = _grammar(body)
        if not grammar:
            return ""
        _check_length(field, len(grammar))
        digest = sha256(grammar.encode()).digest()
        known = self._checked.get(digest)
        if known is None:
            known = await self._trial.ask(tenant, grammar)
            if known[0] != "late":  # the machine may only be busy
                self._checked[digest] = known
            if len(self._checked) > MAX_CHECKED:
                self._checked.popitem(last=False)
        else:
            self._checked.move_to_end(digest)
        kind, problem = known
        reason = problem.strip().partition("\n<")[0][:MAX_PROBLEM_CHARS]
        if kind in ("complex", "late"):
            raise GrammarTooComplex(f"{field}: too complex: {reason}", param=field)
        if kind != "ok":
            raise RequestError(f"{field}: {reason}", param=field)
        return grammar


def _grammar(body: GenerationBody) -> tuple[str, str]:
    """(field, grammar); both empty where text is free."""
    if body.guided_regex is not None:
        return "guided_regex", LLMatcher.grammar_from_regex(body.guided_regex)
    if body.guided_choice is not None:
        return "guided_choice", _choice_grammar("guided_choice", body.guided_choice)
    if body.guided_grammar is not None:
        return "guided_grammar", LLMatcher.grammar_from_lark(body.guided_grammar)
    if body.guided_json is not None:
        return "guided_json", _json_grammar("guided_json", body.guided_json)
    if body.structured_outputs is not None:
        return _member_grammar(body.structured_outputs)
    wanted = body.response_format
    if wanted is None or wanted.type == "text":
        return "", ""
    schema = ANY_OBJECT if wanted.json_schema is None else wanted.json_schema.wanted
    return "response_format", _json_grammar("response_format", schema)


def _member_grammar(wanted: StructuredOutputs) -> tuple[str, str]:
    """(field, grammar) of the one member that is given."""
    field = f"structured_outputs.{wanted.given[0]}"
    if wanted.regex is not None:
        return field, LLMatcher.grammar_from_regex(wanted.regex)
    if wanted.choice is not None:
        return field, _choice_grammar(field, wanted.choice)
    if wanted.grammar is not None:
        return field, LLMatcher.grammar_from_lark(wanted.grammar)
    schema = ANY_OBJECT if wanted.wanted_json is None else wanted.wanted_json
    return field, _json_grammar(field, schema)


def _choice_grammar(field: str, alternatives: list[str]) -> str:
    """One of these texts and nothing else."""
    _check_length(field, sum(len(text) for text in alternatives))
    return LLMatcher.grammar_from_regex("|".join(_literally(text) for text in alternatives))


def _check_length(field: str, characters: int) -> None:
    if characters > MAX_GRAMMAR_CHARS:
        raise field_error(field, f"{characters} characters; at most {MAX_GRAMMAR_CHARS}")


def _literally(text: str) -> str:
    """A text as a regular expression that matches it alone."""
    return "".join(char if char.isalnum() else f"\\x{{{ord(char):x}}}" for char in text)


def _json_grammar(field: str, schema: dict[str, Any] | str) -> str:
    if isinstance(schema, str):
        _check_length(field, len(schema))
    try:
        text = schema if isinstance(schema, str) else json.dumps(schema, allow_nan=False)
        if isinstance(schema, str) and not isinstance(json.loads(schema), dict):
            raise ValueError("expected a JSON schema, which is an object")
        return LLMatcher.grammar_from_json_schema(text, defaults=JSON_OPTIONS)
    except (ValueError, RecursionError) as error:
        reason = str(error) or "nested too deeply"
        raise field_error(field, reason[:MAX_PROBLEM_CHARS]) from error
