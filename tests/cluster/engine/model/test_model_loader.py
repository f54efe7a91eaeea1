"""Loading a model leaves standard error to the log."""

from collections.abc import Callable
from pathlib import Path

import pytest
import transformers

from cluster.config import EngineConfig
from cluster.engine.model.model_loader import load_model


def test_no_bar_is_drawn(
    tiny_model: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tiny_model("llama")
    transformers.utils.logging.enable_progress_bar()
    capfd.readouterr()
    load_model(folder, EngineConfig(device="cpu"))
    assert "Loading" not in capfd.readouterr().err
