"""Tries grammars out in a process of its own, so that none can take the front with it.

Reads length-prefixed grammars from standard input and answers each in the same way: ``ok``,
``bad`` or ``complex``, then the reason. It runs until its input ends.
"""

import contextlib
import resource
import struct
import sys
import threading
import time
from pathlib import Path
from typing import BinaryIO

from llguidance import LLTokenizer

from cluster.engine.grammar_limits import problem_of

LENGTH = struct.Struct(">I")
MAX_MEMORY_BYTES = 4 << 30
STACK_BYTES = 2 << 20
"""A quarter of an engine's thread's: what is tried here does not overflow there."""


def serve(source: BinaryIO, answers: BinaryIO, tokenizer: LLTokenizer | None) -> None:
    """Answer until ``source`` ends."""
    while head := source.read(LENGTH.size):
        grammar = source.read(LENGTH.unpack(head)[0]).decode()
        too_complex, problem = problem_of(grammar, tokenizer, time.thread_time)
        kind = "ok" if not problem else "complex" if too_complex else "bad"
        answer = f"{kind}\n{problem}".encode()
        answers.write(LENGTH.pack(len(answer)) + answer)
        answers.flush()


def main() -> None:
    """Run ``python -m deployments.front.text.grammar_helper TOKENIZER_JSON``."""
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    tokenizer = None
    with contextlib.suppress(OSError, ValueError):
        tokenizer = LLTokenizer(Path(sys.argv[1]).read_text(encoding="utf-8"))
    threading.stack_size(STACK_BYTES)
    worker = threading.Thread(
        target=serve, args=(sys.stdin.buffer, sys.stdout.buffer, tokenizer), daemon=True
    )
    worker.start()
    worker.join()


if __name__ == "__main__":
    main()
