"""What an adapter must fit."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BaseShapes:
    """The linear modules of a base model that can be adapted."""

    digest: str  # of the base model
    modules: Mapping[str, tuple[int, int]]  # module path -> (d_out, d_in)
    model_id: str = ""  # the name the base is served under
    vocab_size: int = 0  # 0: not known
