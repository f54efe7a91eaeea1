"""The files of a base model whose tokens are bytes, without weights, and adapters for it."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from cluster.adapters.validation.base_shapes import BaseShapes
from router_service.routers.static import save_static

MODEL_ID = "org/tiny"
SPECIAL = ("<s>", "</s>", "<|im_start|>", "<|im_end|>")
END_OF_TEXT = SPECIAL.index("</s>")
FIRST_BYTE = len(SPECIAL)
VOCABULARY = FIRST_BYTE + 256
MODULE = "model.layers.0.self_attn.q_proj"
SHAPES = BaseShapes(MODEL_ID, {MODULE: (8, 8)})
ADAPTERS = ("cron", "json", "sql")
SOURCES = ("fresh", "other", "wide")
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_byte_base(folder: Path) -> Path:
    """Write ``base``, ``adapters``, ``sources`` and the router ``fixed`` below ``folder``."""
    base = folder / "base"
    _tokenizer().save_pretrained(base)
    (base / "config.json").write_text('{"num_hidden_layers": 2, "hidden_size": 8}')
    for number, name in enumerate(ADAPTERS):
        write_adapter(folder / "adapters" / name, float(number + 1))
    for number, name in enumerate(SOURCES):
        write_adapter(folder / "sources" / name, float(number + 11), 16 if name == "wide" else 8)
    save_static(folder / "fixed", {"sql": 0.5, "json": 0.25})
    return folder


def _tokenizer() -> PreTrainedTokenizerFast:
    """Make a tokenizer whose ids are the special tokens and then the bytes in order."""
    written = _written_bytes()
    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *written])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([AddedToken(one, special=True, normalized=False) for one in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", chat_template=TEMPLATE
    )


def _written_bytes() -> list[str]:
    """Write each byte as the byte-level alphabet does: itself, or from 256 on where unseen."""
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = iter(range(256, 512))
    return [chr(byte if byte in visible else next(hidden)) for byte in range(256)]


def write_adapter(folder: Path, value: float, width: int = 8) -> Path:
    """Write a PEFT folder of rank 2 whose weights are all ``value``."""
    folder.mkdir(parents=True)
    stem = f"base_model.model.{MODULE}"
    tensors = {
        f"{stem}.lora_A.weight": torch.full((2, width), value),
        f"{stem}.lora_B.weight": torch.full((width, 2), value),
    }
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder
