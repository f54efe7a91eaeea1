"""Limits how complex a grammar may be, and tries one out before a request follows it.

Both sides use the same limits: the front refuses what passes them at once or within a few tokens,
and the engine ends a sequence whose grammar passes them later.
"""

import random
from collections.abc import Callable

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer

LIMITS = LLParserLimits(
    initial_lexer_fuel=1_000_000,
    step_lexer_fuel=50_000,
    step_max_items=20_000,
    max_items_in_row=2_000,
    max_lexer_states=30_000,
    max_grammar_size=200_000,
    verbose_errors=False,
)
"""llguidance's own units: about 15 fuel and 20 items a microsecond, 2 kB a state."""

TRIED_WALKS = 2
TRIED_TOKENS = 24
MAX_COMPILE_CPU_S = 1.0
_DEAD_END = "NoExtensionBias"
"""llguidance's word where nothing may follow and the text is not complete either."""
MAX_TOKEN_CPU_S = 0.01
"""Of one token's mask on average, over those that are tried; a batch waits for all its masks."""


def problem_of(
    grammar: str, tokenizer: LLTokenizer | None, cpu_time: Callable[[], float]
) -> tuple[bool, str]:
    """Compile a grammar and follow it for a few random tokens.

    Args:
        grammar: llguidance's JSON text.
        tokenizer: None: it is only compiled.
        cpu_time: seconds of processor time that this thread has had.

    Returns:
        True if it is too complex rather than wrong, and the reason, which is empty if nothing is
        wrong.
    """
    began = cpu_time()
    problem = LLMatcher.validate_grammar(grammar, limits=LIMITS)
    if problem:
        return _is_limit(problem), problem
    if tokenizer is None:
        return False, ""
    matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=LIMITS)
    if matcher.is_error():
        return _is_limit(matcher.get_error()), matcher.get_error()
    if cpu_time() - began > MAX_COMPILE_CPU_S:
        return True, "it takes too long to compile"
    for seed in range(TRIED_WALKS):
        problem = _walk(matcher.deep_copy(), tokenizer, seed, cpu_time)
        if _DEAD_END in problem:
            return False, "no text fits it; see if it refers to itself without an end"
        if problem:
            return True, problem
    return False, ""


def _walk(
    matcher: LLMatcher, tokenizer: LLTokenizer, seed: int, cpu_time: Callable[[], float]
) -> str:
    """Follow random tokens until nothing can follow, and return what goes wrong on the way."""
    choose = random.Random(seed)
    seconds = 0.0  # of the matcher, as in an engine; choosing a token takes time here alone
    for _ in range(TRIED_TOKENS):
        began = cpu_time()
        mask = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
        seconds += cpu_time() - began
        if matcher.is_error():
            return matcher.get_error()
        bits = np.unpackbits(mask, bitorder="little")[: tokenizer.vocab_size]
        allowed = np.setdiff1d(np.flatnonzero(bits), tokenizer.eos_tokens)
        if not len(allowed):
            return ""
        token = int(choose.choice(allowed))
        began = cpu_time()
        taken = matcher.consume_token(token)
        seconds += cpu_time() - began
        if not taken:
            return matcher.get_error()
        if seconds > TRIED_TOKENS * MAX_TOKEN_CPU_S:
            return "its tokens take too long to find"
    return ""


def _is_limit(problem: str) -> bool:
    """Tell a limit from a mistake by llguidance's words."""
    return any(
        word in problem for word in ("too many", "Too many", "too big", "too large", "limit")
    )
