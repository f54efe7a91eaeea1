"""Structured output: which tokens a grammar allows next (llguidance).

A grammar is llguidance's JSON text. It is compiled once and kept; each sequence gets its own state,
which follows the tokens that the sequence has.
"""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher, LLTokenizer

from cluster.engine.grammar_limits import LIMITS
from cluster.engine.sequence import Grammar
from cluster.errors import BraidError, EngineError, GrammarTooComplex, RequestError

MAX_COMPILED = 64


class TokenGrammar:
    """One sequence's state. Used by one thread at a time."""

    def __init__(self, matcher: LLMatcher, vocab_size: int) -> None:
        self._matcher = matcher
        self._vocab_size = vocab_size
        self._consumed = 0  # generated tokens that the matcher has seen
        self.problem = ""  # why no token may follow any more

    def allowed(self, generated: Sequence[int]) -> npt.NDArray[np.bool_]:
        """Return [vocabulary], true for each token that may follow ``generated``.

        Only the end of sequence follows a complete text that nothing can extend. Nothing follows
        tokens that the grammar does not accept, or where it is too complex to go on.
        """
        new = list(generated[self._consumed :])
        if self._matcher.try_consume_tokens(new) < len(new) or self._matcher.is_error():
            return self._nothing()
        self._consumed = len(generated)
        mask = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        if self._matcher.is_error():
            return self._nothing()
        return np.unpackbits(mask, bitorder="little")[: self._vocab_size].view(np.bool_)

    def _nothing(self) -> npt.NDArray[np.bool_]:
        reason = self._matcher.get_error().partition("\n")[0]
        self.problem = reason or "it does not accept the tokens that were generated"
        return np.zeros(self._vocab_size, dtype=np.bool_)


def row_error(grammar: Grammar | None, reason: str) -> BraidError:
    """Return the error of a sequence without a next token: the caller's fault if its grammar gave
    up."""
    if isinstance(grammar, TokenGrammar) and grammar.problem:
        return GrammarTooComplex(f"the grammar cannot be followed any further: {grammar.problem}")
    return EngineError(reason)


class GrammarCompiler:
    """Compiles grammars and keeps the newest; safe to use from several threads.

    Args:
        model_dir: folder with tokenizer.json, read when the first grammar comes.
        vocab_size: width of the model's logits.
        eos_token_ids: what may follow a complete text.
    """

    def __init__(self, model_dir: Path, vocab_size: int, eos_token_ids: frozenset[int]) -> None:
        self._file = model_dir / "tokenizer.json"
        self._vocab_size = vocab_size
        self._eos_token_ids = sorted(eos_token_ids)
        self._lock = threading.Lock()
        self._tokenizer: LLTokenizer | None = None
        self._compiled: OrderedDict[bytes, LLMatcher] = OrderedDict()

    def start(self, grammar: str, generated: Sequence[int] = ()) -> TokenGrammar:
        """Return the state of a sequence that has ``generated`` already.

        Raises:
            RequestError: the grammar cannot be compiled or does not accept ``generated``, or the
                model has no tokenizer or no end of sequence.
        """
        state = TokenGrammar(self._matcher(grammar).deep_copy(), self._vocab_size)
        if generated and not state.allowed(generated).any():
            raise RequestError("the grammar does not accept the tokens that were generated")
        return state

    def _matcher(self, grammar: str) -> LLMatcher:
        """Return the compiled grammar in its first state; never advanced, only copied."""
        digest = sha256(grammar.encode()).digest()
        with self._lock:
            found = self._compiled.get(digest)
            if found is None:
                found = LLMatcher(self._own_tokenizer(), grammar, log_level=0, limits=LIMITS)
                if found.is_error():
                    raise RequestError(f"the grammar cannot be compiled: {found.get_error()}")
                self._compiled[digest] = found
                if len(self._compiled) > MAX_COMPILED:
                    self._compiled.popitem(last=False)
            self._compiled.move_to_end(digest)
            return found

    def _own_tokenizer(self) -> LLTokenizer:
        if self._tokenizer is None:
            if not self._eos_token_ids:
                raise RequestError("structured output needs a model with an end of sequence")
            try:
                text = self._file.read_text(encoding="utf-8")
                self._tokenizer = LLTokenizer(
                    text, n_vocab=self._vocab_size, eos_token=self._eos_token_ids
                )
            except (OSError, ValueError) as error:
                raise RequestError(
                    f"structured output cannot be served with this model's tokenizer: {error}"
                ) from error
        return self._tokenizer
