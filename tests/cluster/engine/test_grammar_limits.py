"""Grammars that outgrow their limits while they are followed: an error of the caller."""

import pytest
from llguidance import LLMatcher

from cluster.engine.sampling.grammar import GrammarCompiler, row_error
from cluster.errors import EngineError, GrammarTooComplex
from tests.support.small_cluster import make_base

VOCAB = 258
BOMB = LLMatcher.grammar_from_regex("((a{1,100}){1,100}){1,100}")
PLAIN = LLMatcher.grammar_from_regex("a{3}")


@pytest.fixture(scope="module")
def compiler(tmp_path_factory: pytest.TempPathFactory) -> GrammarCompiler:
    base = make_base(tmp_path_factory.mktemp("tiny"))
    return GrammarCompiler(base, VOCAB, frozenset({1}))


def test_a_grammar_that_runs_out_of_fuel_is_the_callers(compiler: GrammarCompiler) -> None:
    state = compiler.start(BOMB)
    generated: list[int] = []
    while (allowed := state.allowed(generated)).any() and len(generated) < 400:
        generated.append(next(int(token) for token in allowed.nonzero()[0] if token != 1))
    assert len(generated) < 400
    error = row_error(state, "no token")
    assert isinstance(error, GrammarTooComplex)
    assert error.status == 400


def test_other_rows_without_a_token_are_the_engines(compiler: GrammarCompiler) -> None:
    state = compiler.start(PLAIN)
    assert state.allowed([]).any()
    assert type(row_error(state, "NaN")) is EngineError
    assert type(row_error(None, "NaN")) is EngineError
