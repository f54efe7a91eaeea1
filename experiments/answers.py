"""Greedy answers that are decoded once and kept: an interruption loses a chunk at most."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from cluster.adapters.format.manifest import read_manifest
from training.evaluation.local_engine import Asked

_CHUNK = 16

Decode = Callable[[Sequence[Asked], int], list[str]]
"""Prompts and most tokens -> answers."""


class KeptAnswers:
    """A JSONL file of answers by base, adapters' versions, weights, prompt and length."""

    def __init__(
        self, path: Path, base_digest: str, adapters: Mapping[str, Path], *, part: str = ""
    ) -> None:
        """``part``: version of the router that weighs the mixtures inside the engine, if any."""
        self._path = path
        self._base: str | list[str] = [base_digest, part] if part else base_digest
        self._digests = {a: str(read_manifest(folder)[0].digest) for a, folder in adapters.items()}
        self._kept: dict[str, str] = {}
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                key, text = json.loads(line)
                self._kept[key] = text

    def missing(self, asked: Sequence[Asked], max_tokens: int) -> list[Asked]:
        """What has no answer yet, each once."""
        wanted = dict.fromkeys(asked)
        return [item for item in wanted if self._key(item, max_tokens) not in self._kept]

    def fill(
        self,
        asked: Sequence[Asked],
        max_tokens: int,
        decode: Decode,
        say: Callable[[str], None],
    ) -> None:
        """Decode what is missing, and keep it chunk by chunk."""
        missing = self.missing(asked, max_tokens)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        for start in range(0, len(missing), _CHUNK):
            chunk = missing[start : start + _CHUNK]
            texts = decode(chunk, max_tokens)
            with self._path.open("a", encoding="utf-8") as file:
                for item, text in zip(chunk, texts, strict=True):
                    key = self._key(item, max_tokens)
                    self._kept[key] = text
                    file.write(json.dumps([key, text]) + "\n")
            say(f"answered {start + len(chunk)}/{len(missing)}")

    def get(self, item: Asked, max_tokens: int) -> str:
        """A kept answer."""
        return self._kept[self._key(item, max_tokens)]

    def _key(self, item: Asked, max_tokens: int) -> str:
        mixture = sorted((self._digests[alias], weight) for alias, weight in item.mixture)
        parts = json.dumps([self._base, mixture, item.prompt, max_tokens])
        return hashlib.sha256(parts.encode()).hexdigest()
