"""From the structured-output fields of a body to the grammar that the engine follows."""

import json
from collections import OrderedDict
from hashlib import sha256
from typing import TYPE_CHECKING

from llguidance import LLMatcher

from cluster.domain.ids import TenantId
from cluster.errors import GrammarTooComplex, RequestError
from deployments.front.grammar_trial import GrammarTrial
from deployments.front.wire import GenerationBody

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

MAX_GRAMMAR_CHARS = 256 * 1024
MAX_CHECKED = 256
MAX_PROBLEM_CHARS = 500

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
        if len(grammar) > MAX_GRAMMAR_CHARS:
            raise RequestError(
                f"{field}: {len(grammar)} characters; at most {MAX_GRAMMAR_CHARS}", param=field
            )
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
    if body.guided_grammar is not None:
        return "guided_grammar", LLMatcher.grammar_from_lark(body.guided_grammar)
    if body.guided_json is not None:
        return _json_grammar("guided_json", body.guided_json)
    wanted = body.response_format
    if wanted is None or wanted.type == "text":
        return "", ""
    if wanted.json_schema is None:
        return _json_grammar("response_format", {"type": "object"})
    return _json_grammar("response_format", wanted.json_schema.wanted)


def _json_grammar(field: str, schema: dict[str, object]) -> tuple[str, str]:
    try:
        text = json.dumps(schema, allow_nan=False)
        return field, LLMatcher.grammar_from_json_schema(text, defaults=JSON_OPTIONS)
    except ValueError as error:
        raise RequestError(f"{field}: {error}", param=field) from error
