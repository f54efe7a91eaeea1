"""Reads the shapes of the base model that an adapter must fit."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class BaseShapes:
    """The linear modules of a base model that can be adapted."""

    digest: str  # of the base model
    modules: Mapping[str, tuple[int, int]]  # module path -> (d_out, d_in)
    model_id: str = ""  # the name the base is served under
    model_type: str = ""  # as its config.json says; PEFT's default targets depend on it
    folder: Path | None = None  # its files on this machine; None: not at hand
    vocab_size: int = 0  # 0: not known

    @classmethod
    def of_model(
        cls,
        folder: Path,
        digest: str,
        model_id: str,
        modules: Mapping[str, tuple[int, int]],
        vocab_size: int = 0,
    ) -> "BaseShapes":
        """Read the shapes of the model with its files in ``folder``."""
        return cls(digest, modules, model_id, model_type_of(folder), folder, vocab_size)


def model_type_of(folder: Path) -> str:
    """Return the type of the model in a folder; empty if its config.json does not have it."""
    try:
        found = json.loads((folder / "config.json").read_text()).get("model_type")
    except (OSError, ValueError, AttributeError):
        return ""
    return found if isinstance(found, str) else ""
