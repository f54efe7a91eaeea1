"""Tokenizers of the kinds that models have, trained in a moment, with special tokens."""

import json
from collections.abc import Callable

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from transformers import PreTrainedTokenizerFast

TEXT = [
    "The quick brown fox jumps over the lazy dog, and the dog sleeps on in the sun.",
    "def add(a, b):\n    return a + b\n\nprint(add(1, 2))\n",
    "héllo wörld, naïve café, größer als 100 °C",
    "日本語のテキスト と 한국어 텍스트",
    "system user assistant model think thinking im_start im_end turn",
] * 4

SPECIAL = ("<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|sys|>", "[INST]", "[/INST]")
NOT_SPECIAL = ("<think>", "</think>", "<｜User｜>", "<｜Assistant｜>", "    ")


def _add_tokens(tokenizer: Tokenizer, **flags: bool) -> None:
    tokenizer.add_tokens(
        [AddedToken(content, special=True, normalized=False, **flags) for content in SPECIAL]
        + [AddedToken(content, special=False, normalized=False) for content in NOT_SPECIAL]
    )


def byte_level(**flags: bool) -> Tokenizer:
    """Build a tokenizer like those of GPT-2, Llama 3 and Qwen."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        TEXT,
        trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, show_progress=False),
    )
    _add_tokens(tokenizer, **flags)
    return tokenizer


def _pieces() -> models.BPE:
    """Merges over words with ``▁`` for a blank, and bytes to fall back to."""
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Replace(" ", "▁")
    trained.train_from_iterator(
        TEXT[:2], trainers.BpeTrainer(vocab_size=150, show_progress=False, max_token_length=6)
    )
    vocab = {f"<0x{byte:02X}>": byte for byte in range(256)}
    for piece, _ in sorted(trained.get_vocab().items(), key=lambda item: item[1]):
        vocab.setdefault(piece, len(vocab))
    merges = [tuple(pair) for pair in json.loads(trained.to_str())["model"]["merges"]]
    return models.BPE(vocab=vocab, merges=merges, byte_fallback=True, fuse_unk=True)


def byte_fallback(**flags: bool) -> Tokenizer:
    """Build a tokenizer like Llama 2's: each stretch of text begins with a blank."""
    tokenizer = Tokenizer(_pieces())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    _add_tokens(tokenizer, **flags)
    return tokenizer


def byte_fallback_first(**flags: bool) -> Tokenizer:
    """Build a tokenizer like Mistral's: only the first stretch of a text begins with a blank."""
    tokenizer = byte_fallback(**flags)
    tokenizer.normalizer = None
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    return tokenizer


def byte_fallback_plain(**flags: bool) -> Tokenizer:
    """Build a tokenizer like Gemma's: blanks are as they are written."""
    tokenizer = byte_fallback(**flags)
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return tokenizer


KINDS: dict[str, Callable[..., Tokenizer]] = {
    "byte-level": byte_level,
    "byte-fallback": byte_fallback,
    "byte-fallback-first": byte_fallback_first,
    "byte-fallback-plain": byte_fallback_plain,
}


def wrapped(tokenizer: Tokenizer, template: str) -> PreTrainedTokenizerFast:
    """Wrap the tokenizer as transformers has it."""
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", chat_template=template
    )
