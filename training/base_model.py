"""Base model and tokenizer as training and evaluation load them."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from cluster.errors import ModelSourceError


def load_base(path: Path) -> tuple[Any, Any]:
    """Load a causal language model in fp32, in evaluation mode, and its tokenizer with a pad
    token.

    Raises:
        ModelSourceError: the folder does not hold a causal language model with a chat template.
    """
    import transformers

    transformers_logging: Any = transformers.utils.logging
    transformers_logging.disable_progress_bar()
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(path, local_files_only=True)
        model: Any = transformers.AutoModelForCausalLM.from_pretrained(
            path, dtype=torch.float32, local_files_only=True
        )
    except (OSError, ValueError) as error:
        raise ModelSourceError(f"{path}: cannot be loaded: {error}") from error
    if tokenizer.chat_template is None or tokenizer.eos_token_id is None:
        raise ModelSourceError(f"{path}: the tokenizer has no chat template or no end token")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model.eval(), tokenizer


def linear_shapes(model: Any) -> dict[str, tuple[int, int]]:
    """Return (d_out, d_in) of every linear of a model, by module path."""
    return {
        path: (module.out_features, module.in_features)
        for path, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
    }


@contextmanager
def quiet_peft() -> Iterator[None]:
    """Silence PEFT's warning about a property that transformers has renamed."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated")
        yield
