"""Beginnings of prompts that requests share, as chains of block hashes."""

import hashlib
from dataclasses import dataclass
from random import Random
from typing import Protocol

HASH_BYTES = 6
"""48 bits: exact in every reader of JSON, and two of a million blocks are equal by accident with
a probability of 0.2 %."""
BLOCK_TOKENS = 16
"""As ``engine.block_size`` by default."""


class PromptPrefixes(Protocol):
    """Draws the chain of one prompt's whole blocks."""

    def draw(self, rng: Random, tenant: str, tokens: int) -> tuple[int, ...]:
        """Return a chain; () for a prompt that shares nothing."""
        ...


@dataclass(frozen=True)
class NoPrefixes:
    """Every prompt is unlike all others."""

    def draw(self, rng: Random, tenant: str, tokens: int) -> tuple[int, ...]:
        """Return nothing."""
        del rng, tenant, tokens
        return ()


NO_PREFIXES = NoPrefixes()


@dataclass(frozen=True)
class SystemPrompts:
    """With probability ``share`` a prompt begins with one of its tenant's system prompts.

    The rest of the prompt, and every other prompt, is unlike all others.
    """

    share: float
    tokens: int  # of each system prompt
    each: int = 1  # system prompts of a tenant, drawn evenly
    block_tokens: int = BLOCK_TOKENS

    def draw(self, rng: Random, tenant: str, tokens: int) -> tuple[int, ...]:
        """Return the chain of one prompt."""
        whole = tokens // self.block_tokens
        common = 0
        which = rng.randrange(self.each)
        if rng.random() < self.share:
            common = min(self.tokens, tokens) // self.block_tokens
        shared = (_named(f"{tenant}/{which}/{block}") for block in range(common))
        own = (rng.getrandbits(8 * HASH_BYTES) for _ in range(whole - common))
        return (*shared, *own)


def chain_hash(key: bytes, before: bytes, tokens: bytes) -> bytes:
    """Return the hash of a block that follows the block of hash ``before``.

    Args:
        key: secret, at most 64 bytes: without it, guesses of a prompt cannot be tested.
        before: b"" or what tells chains apart, for the first block.
        tokens: the block's token ids, in any one form.
    """
    return hashlib.blake2b(before + tokens, digest_size=HASH_BYTES, key=key).digest()


def _named(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=HASH_BYTES).digest())
