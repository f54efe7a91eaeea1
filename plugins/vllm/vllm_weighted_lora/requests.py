"""Makes the LoRARequest of a mixture."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from vllm_weighted_lora.mixtures import canonical_text, encode, make_terms
from vllm_weighted_lora.versions import require_vllm

if TYPE_CHECKING:
    from vllm.lora.request import LoRARequest


def mixture_request(
    terms: Sequence[tuple[str, float]],
    cache_key: str | None = None,
    *,
    folders: Mapping[str, str] | None = None,
) -> LoRARequest:
    """Return a request for a weighted sum of adapters: a virtual adapter, which takes no slot.

    Args:
        terms: 1 to 8 pairs of an adapter's name and its weight, any finite number.
        cache_key: blocks of vLLM's prefix cache are shared between requests of equal keys, so it
            must stand for what is applied: contents and weights. None: the key is made of names,
            weights and the moment when each adapter was loaded.
        folders: by name, adapters that vLLM itself loads when a request needs them, and drops when
            it needs the slot. A name that is not here was loaded by the worker's call
            ``load_adapter``.

    Raises:
        ValueError: `terms` do not make a mixture; the message says why.
        ImportError: vLLM is not installed, or has another version than this package is for.
    """
    require_vllm()
    from vllm.lora.request import LoRARequest

    made = make_terms(terms, folders)
    path = encode(made, cache_key)
    # The engine gives it another number: this one only has to be a number that vLLM takes.
    number = zlib.crc32(path.encode()) % (1 << 30) + 1
    return LoRARequest(cache_key or canonical_text(made), number, path)
