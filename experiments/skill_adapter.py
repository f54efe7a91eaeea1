"""An adapter of one skill or format, made by the trainer behind ``braid train adapter``."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from cluster.adapters.format.manifest import WEIGHTS_FILE
from router_service.artifacts.outputs import CHECKPOINT_FILE
from training.adapter import train_adapter
from training.config import AdapterTrainingConfig
from training.jsonl import Example, write_examples


def train_skill(
    examples: Sequence[Example],
    out: Path,
    cache_dir: Path,
    *,
    description: str,
    steps: int,
    threads: int,
    say: Callable[[str], None],
) -> Path:
    """Train on the examples; continues an interrupted training, and returns ``out``."""
    if (out / WEIGHTS_FILE).exists() and not (out / CHECKPOINT_FILE).exists():
        return out
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data.jsonl"
        write_examples(data, examples)
        config = AdapterTrainingConfig(
            data=data,
            out=out,
            cache_dir=cache_dir,
            steps=steps,
            checkpoint_every=10,
            eval_every=steps,
            dev_examples=8,
            threads=threads,
            resume=True,
            overwrite=True,
            description=description,
        )
        train_adapter(config, lambda at: say(f"{out.name}: step {at.step}, loss {at.loss:.3f}"))
    return out
