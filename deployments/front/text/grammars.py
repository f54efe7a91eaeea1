"""Compiles the form that a caller wants an answer to have into a grammar for the engine."""

import json
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from llguidance import LLMatcher

from cluster.domain.ids import TenantId
from cluster.errors import GrammarTooComplex, RequestError
from deployments.front.http.body_types import field_error
from deployments.front.text.grammar_trial import GrammarTrial, TrialVerdict

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

MAX_GRAMMAR_CHARS = 256 * 1024
MAX_CHECKED = 256
MAX_PROBLEM_CHARS = 500

JSON_OPTIONS: "JsonCompileOptions" = {"whitespace_pattern": r"[ \t\n]{0,20}"}
"""Any usual layout, but no endless white space, which small models are prone to."""


class GrammarKind(StrEnum):
    """Says how the form of an answer is described."""

    REGEX = "regex"
    CHOICE = "choice"  # one of several texts
    LARK = "lark"
    JSON_SCHEMA = "json_schema"


@dataclass(frozen=True, slots=True)
class GrammarRequest:
    """Describes the form of an answer.

    ``form`` is an expression, the alternatives of a choice, or a JSON schema or its text.
    """

    field: str  # of the caller's body, for error messages
    kind: GrammarKind
    form: str | Sequence[str] | dict[str, Any]


class GrammarChecker:
    """Compiles and tries grammars; remembers the verdict on those it has tried.

    Args:
        trial: tries new grammars.
    """

    def __init__(self, trial: GrammarTrial) -> None:
        self._trial = trial
        self._checked: OrderedDict[bytes, tuple[TrialVerdict, str]] = OrderedDict()

    async def compile_grammar(self, tenant: TenantId, request: GrammarRequest | None) -> str:
        """Return the grammar as llguidance's JSON text; empty for free text.

        Raises:
            RequestError: it cannot be compiled; ``param`` names the field.
            GrammarTooComplex: it cannot be followed within the limits; likewise.
            Overloaded: too many grammars wait to be tried.
        """
        if request is None:
            return ""
        field, grammar = request.field, _grammar_of(request)
        _check_length(field, len(grammar))
        verdict, problem = await self._try(tenant, grammar)
        reason = problem.strip().partition("\n<")[0][:MAX_PROBLEM_CHARS]
        if verdict in (TrialVerdict.COMPLEX, TrialVerdict.LATE):
            raise GrammarTooComplex(f"{field}: too complex: {reason}", param=field)
        if verdict is not TrialVerdict.OK:
            raise RequestError(f"{field}: {reason}", param=field)
        return grammar

    async def _try(self, tenant: TenantId, grammar: str) -> tuple[TrialVerdict, str]:
        digest = sha256(grammar.encode()).digest()
        known = self._checked.get(digest)
        if known is not None:
            self._checked.move_to_end(digest)
            return known
        found = await self._trial.ask(tenant, grammar)
        if found[0] is not TrialVerdict.LATE:  # the machine may only be busy
            self._checked[digest] = found
        if len(self._checked) > MAX_CHECKED:
            self._checked.popitem(last=False)
        return found


def _grammar_of(request: GrammarRequest) -> str:
    match request.kind, request.form:
        case GrammarKind.REGEX, str() as expression:
            return LLMatcher.grammar_from_regex(expression)
        case GrammarKind.LARK, str() as rules:
            return LLMatcher.grammar_from_lark(rules)
        case GrammarKind.JSON_SCHEMA, (str() | dict()) as schema:
            return _json_grammar(request.field, schema)
        case GrammarKind.CHOICE, [*texts]:
            return _choice_grammar(request.field, texts)
    raise TypeError(f"a grammar of kind {request.kind.value} is not a {type(request.form)}")


def _choice_grammar(field: str, alternatives: Sequence[str]) -> str:
    """Match one of these texts and nothing else."""
    _check_length(field, sum(len(text) for text in alternatives))
    return LLMatcher.grammar_from_regex("|".join(_literally(text) for text in alternatives))


def _check_length(field: str, characters: int) -> None:
    if characters > MAX_GRAMMAR_CHARS:
        raise field_error(field, f"{characters} characters; at most {MAX_GRAMMAR_CHARS}")


def _literally(text: str) -> str:
    """Write a regular expression that matches this text alone."""
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
