"""An adapter folder in PEFT's format -> a frozen ``AdapterManifest``, verified without torch.

A folder holds ``adapter_config.json`` and ``adapter_model.safetensors``, and may hold
``manifest.json`` with Braid's own keys (``base_digest``, ``description``, ``tags``; other keys
are provenance). Which modules are adapted is read from the tensors' names
``base_model.model.<module>.lora_A.weight``, never from the config alone.
"""

import hashlib
import json
import os
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from cluster.adapters.document import read_document
from cluster.adapters.peft_config import PeftLoraConfig, read_peft_config
from cluster.adapters.safetensors_file import (
    SafetensorsHeader,
    TensorInfo,
    read_data,
    read_header,
    read_tensors,
)
from cluster.domain.adapter import AdapterManifest
from cluster.domain.ids import AdapterDigest
from cluster.errors import (
    AdapterMalformed,
    AdapterPickle,
    AdapterUnsafePath,
    AdapterUnsupported,
)

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
NOTES_FILE = "manifest.json"
PICKLE_FILE = "adapter_model.bin"

MAX_DESCRIPTION, MAX_TAG = 2000, 100  # characters
MAX_TAGS = 32
_DIRECTIONS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")

_quoted = json.encoder.encode_basestring_ascii
_PREFIX = "base_model.model."
_DTYPES = {"F32", "F16", "BF16"}
_DIGEST_DOMAIN = b"braid-adapter-1\n"


@dataclass(frozen=True, slots=True)
class ModuleTensors:
    """Where one module's two matrices are in the file."""

    A: TensorInfo  # [r, d_in]
    B: TensorInfo  # [d_out, r]

    @property
    def rank(self) -> int:
        """Rank, as the tensors have it."""
        return self.A.shape[0]


@dataclass(frozen=True, slots=True)
class Notes:
    """Braid's own ``manifest.json`` beside the adapter."""

    base_digest: str | None = None
    description: str = ""
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AdapterFiles:
    """A folder whose config and header have been read and agree; no tensor data read yet."""

    config: PeftLoraConfig
    header: SafetensorsHeader
    modules: dict[str, ModuleTensors]  # module path -> its tensors, sorted by path
    notes: Notes
    weights: Path  # the resolved safetensors file

    def manifest(self, digest: AdapterDigest) -> AdapterManifest:
        """The manifest, given the digest that only the data can tell."""
        return AdapterManifest(
            digest=digest,
            rank=self.config.rank,
            alpha=self.config.alpha,
            use_rslora=self.config.use_rslora,
            target_modules=tuple(sorted({m.rpartition(".")[2] for m in self.modules})),
            modules=tuple(self.modules),
            max_rank=max(tensors.rank for tensors in self.modules.values()),
            nbytes=self.header.nbytes,
            base_model=self.config.base_model,
            base_digest=self.notes.base_digest,
            description=self.notes.description,
            rank_pattern=self.config.rank_pattern,
            alpha_pattern=self.config.alpha_pattern,
            invocation_tokens=self.config.invocation_tokens,
        )

    def scaling(self, module: str) -> float:
        """What multiplies ``B A`` at one module: ``alpha / r`` or ``alpha / sqrt(r)``."""
        return self.config.scaling_of(module)


def read_adapter_files(folder: Path) -> AdapterFiles:
    """Read and check everything but the tensors' data.

    Raises:
        AdapterMalformed: a file is missing or malformed; the tensors and the config disagree.
        AdapterUnsafePath: a file is a symlink out of the folder.
        AdapterPickle: the weights are a pickle.
        AdapterUnsupported: a PEFT feature that Braid does not serve, by name.
    """
    config_path = _inside(folder, CONFIG_FILE)
    if not (folder / WEIGHTS_FILE).exists() and (folder / PICKLE_FILE).exists():
        raise AdapterPickle(
            f"{folder / PICKLE_FILE}: pickle files are never opened; save the adapter as "
            f"{WEIGHTS_FILE}"
        )
    weights = _inside(folder, WEIGHTS_FILE)
    config = read_peft_config(config_path)
    header = read_header(weights)
    modules = _group(weights, header)
    for module, tensors in modules.items():
        _check_module(weights, config, module, tensors)
    notes = _read_notes(_inside(folder, NOTES_FILE)) if (folder / NOTES_FILE).exists() else Notes()
    return AdapterFiles(config, header, modules, notes, weights)


def read_manifest(folder: Path) -> tuple[AdapterManifest, tuple[str, ...]]:
    """The folder's manifest and tags; reads every byte once, keeps none.

    Raises:
        AdapterError: as ``read_adapter_files``.
    """
    files = read_adapter_files(folder)
    digest = AdapterDigester(files)
    for info, data in stream_tensors(files):
        digest.update(info, data)
    return files.manifest(digest.finish()), files.notes.tags


def stream_tensors(files: AdapterFiles) -> Iterator[tuple[TensorInfo, memoryview]]:
    """Each tensor of the file with its bytes, which are good until the next; in name order.

    Raises:
        AdapterMalformed: the file cannot be read or has changed since its header was read.
    """
    with _weights(files) as file:
        yield from read_tensors(file, files.weights, files.header)


def read_all(files: AdapterFiles) -> memoryview:
    """The bytes of all tensors, each at its header's offsets.

    Raises:
        AdapterMalformed: as ``stream_tensors``.
    """
    with _weights(files) as file:
        return read_data(file, files.weights, files.header)


@contextmanager
def _weights(files: AdapterFiles) -> Iterator[BinaryIO]:
    try:
        with files.weights.open("rb") as file:
            yield file
    except OSError as error:
        raise AdapterMalformed(f"{files.weights}: cannot be read: {error.strerror}") from error


class _Hash(Protocol):
    def update(self, data: bytes | bytearray | memoryview, /) -> None: ...
    def hexdigest(self) -> str: ...


class AdapterDigester:
    """sha256 of what an adapter computes: scaling rules and base, then each tensor in name order.

    Descriptions, provenance and training settings do not enter: editing them makes no new
    generation. Neither does the order of tensors in the file.
    """

    def __init__(self, files: AdapterFiles) -> None:
        config = files.config
        rules: dict[str, Any] = {
            "rank": config.rank,
            "alpha": config.alpha,
            "use_rslora": config.use_rslora,
            "rank_pattern": config.rank_pattern,
            "alpha_pattern": config.alpha_pattern,
            "base_digest": files.notes.base_digest,
        }
        if config.invocation_tokens:
            rules["invocation_tokens"] = config.invocation_tokens
        self._hash: _Hash = hashlib.sha256(_DIGEST_DOMAIN)
        self._hash.update(json.dumps(rules, sort_keys=True).encode() + b"\n")

    def update(self, info: TensorInfo, data: bytearray | memoryview) -> None:
        """Add the next tensor; names must come in order."""
        shape = ", ".join(map(str, info.shape))
        # As json.dumps([name, dtype, shape]) writes it, in a fifth of the time.
        line = f'[{_quoted(info.name)}, "{info.dtype}", [{shape}]]\n'
        self._hash.update(line.encode())
        self._hash.update(data)

    def finish(self) -> AdapterDigest:
        """The generation's name."""
        return AdapterDigest(self._hash.hexdigest())


def _inside(folder: Path, name: str) -> Path:
    """The resolved path of a file of the folder; a symlink may not lead out of it."""
    path = folder / name
    resolved = path.resolve()
    if not resolved.is_relative_to(folder.resolve()):
        raise AdapterUnsafePath(f"{path}: a symlink out of the adapter's folder, to {resolved}")
    if not resolved.exists():
        raise AdapterMalformed(f"{path}: expected a file, found none")
    if not resolved.is_file() or not os.access(resolved, os.R_OK):
        raise AdapterMalformed(f"{path}: expected a readable file")
    return resolved


def _group(path: Path, header: SafetensorsHeader) -> dict[str, ModuleTensors]:
    sides: dict[str, dict[str, TensorInfo]] = {"lora_A": {}, "lora_B": {}}
    for info in header.tensors:
        stem, _, last = info.name.rpartition(".")
        module, _, side = stem.rpartition(".")
        if not info.name.startswith(_PREFIX) or last != "weight" or side not in sides:
            raise AdapterUnsupported(f"{path}: {info.name}: {_unknown_tensor(info.name)}")
        if info.dtype not in _DTYPES:
            raise AdapterUnsupported(
                f"{path}: {info.name}: expected F32, F16 or BF16, found {info.dtype}"
            )
        sides[side][module.removeprefix(_PREFIX)] = info
    modules = sorted(sides["lora_A"].keys() | sides["lora_B"].keys())
    if not modules:
        raise AdapterMalformed(
            f"{path}: expected tensors {_PREFIX}<module>.lora_A.weight, found none"
        )
    for side, found in sides.items():
        for module in modules:
            if module not in found:
                name = f"{_PREFIX}{module}.{side}.weight"
                raise AdapterMalformed(f"{path}: {name}: expected beside its partner, found none")
    return {m: ModuleTensors(sides["lora_A"][m], sides["lora_B"][m]) for m in modules}


def _unknown_tensor(name: str) -> str:
    if "lora_embedding_" in name:
        return "LoRA on embeddings is not served"
    if "lora_magnitude_vector" in name:
        return "DoRA's magnitude vector is not served"
    if name.endswith(".bias"):
        return "trained biases are not served"
    if "modules_to_save" in name:
        return "fully trained modules are not served"
    return f"expected {_PREFIX}<module>.lora_A.weight or .lora_B.weight"


def _check_module(path: Path, config: PeftLoraConfig, module: str, tensors: ModuleTensors) -> None:
    rank = config.rank_of(module)
    for info, axis, side in ((tensors.A, 0, "[r, d_in]"), (tensors.B, 1, "[d_out, r]")):
        if len(info.shape) != 2 or info.shape[axis] != rank or 0 in info.shape:
            raise AdapterMalformed(
                f"{path}: {info.name}: expected {side} with r = {rank} by the config, "
                f"found {list(info.shape)}"
            )
    if not config.targets(module):
        raise AdapterMalformed(
            f"{path}: {tensors.A.name}: its config does not target {module} "
            "(target_modules, exclude_modules, layers_to_transform, layers_pattern)"
        )


def _read_notes(path: Path) -> Notes:
    content = read_document(path)
    base, description, tags = (
        content.get("base_digest"),
        content.get("description", ""),
        content.get("tags", []),
    )
    if base is not None and not isinstance(base, str):
        raise AdapterMalformed(f"{path}: base_digest: expected a string, found {base!r}")
    if not isinstance(description, str):
        raise AdapterMalformed(f"{path}: description: expected a string, found {description!r}")
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise AdapterMalformed(f"{path}: tags: expected a list of strings, found {tags!r}")
    if len(tags) > MAX_TAGS:
        raise AdapterMalformed(f"{path}: tags: expected at most {MAX_TAGS}, found {len(tags)}")
    _check_text(path, "description", description, MAX_DESCRIPTION)
    for index, tag in enumerate(tags):
        _check_text(path, f"tags[{index}]", tag, MAX_TAG)
    return Notes(base, description, tuple(tags))


def _check_text(path: Path, field: str, text: str, longest: int) -> None:
    """What lists and terminals show is short, and steers neither of them."""
    if len(text) > longest:
        raise AdapterMalformed(
            f"{path}: {field}: expected at most {longest} characters, found {len(text)}"
        )
    for character in text:
        steers = unicodedata.category(character) in ("Cc", "Cs") and character not in "\n\t"
        if steers or character in _DIRECTIONS:
            raise AdapterMalformed(
                f"{path}: {field}: found the control character U+{ord(character):04X}"
            )
