"""Reads an adapter folder in PEFT's format into a frozen ``AdapterManifest``, without torch.

A folder holds ``adapter_config.json`` and ``adapter_model.safetensors``, and may hold
``manifest.json`` with Braid's own keys (``base_digest``, ``description``, ``tags``; other keys
are provenance), and a chat template. Which modules are adapted is read from the tensors' names
``base_model.model.<module>.lora_A.weight``, never from the config alone.
"""

import hashlib
import json
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from cluster.adapters.format.chat_template import (
    TEMPLATE_FILE,
    TOKENIZER_FILE,
    digest_of,
    read_chat_template,
)
from cluster.adapters.format.labels import LABELS_FILE, Labels, read_labels
from cluster.adapters.format.module_tensors import ModuleTensors, check_modules, group_modules
from cluster.adapters.format.peft_config import PeftLoraConfig, read_peft_config
from cluster.adapters.format.safetensors_file import (
    SafetensorsHeader,
    TensorInfo,
    read_data,
    read_header,
    read_tensors,
)
from cluster.adapters.format.shown import shown_name
from cluster.adapters.format.tensor_names import TensorNames, read_tensor_names
from cluster.domain.adapter import AdapterManifest
from cluster.domain.ids import AdapterDigest
from cluster.errors import (
    AdapterMalformed,
    AdapterPickle,
    AdapterUnsafePath,
)

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
PICKLE_FILE = "adapter_model.bin"
ANYWHERE = Path("/")
"""Folder below which a user's own files may link, for commands on the user's own machine."""
PEFT_NAME = "default"
"""The name under which PEFT loads an adapter that is given none."""
MAX_NAMED = 5
"""Names in one note."""

_quoted = json.encoder.encode_basestring_ascii
_DIGEST_DOMAIN = b"braid-adapter-1\n"


@dataclass(frozen=True, slots=True)
class AdapterFiles:
    """A folder whose config and header have been read and agree; no tensor data read yet."""

    config: PeftLoraConfig
    header: SafetensorsHeader
    modules: dict[str, ModuleTensors]  # module path -> its tensors, sorted by path
    vocabulary: dict[str, str]  # tensor that is not LoRA -> the base's tensor that it copies
    labels: Labels
    weights: Path  # the resolved safetensors file
    chat_template: str | None = None  # the adapter's own
    notes: tuple[str, ...] = ()  # what people should know of these files, a sentence each

    @property
    def lora_nbytes(self) -> int:
        """Bytes of the tensors that are kept, without copies of the base's."""
        return sum(tensors.A.nbytes + tensors.B.nbytes for tensors in self.modules.values())

    def manifest(self, digest: AdapterDigest) -> AdapterManifest:
        """Build the manifest, given the digest, which depends on the data."""
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
            base_digest=self.labels.base_digest,
            description=self.labels.description,
            rank_pattern=self.config.rank_pattern,
            alpha_pattern=self.config.alpha_pattern,
            chat_template=None if self.chat_template is None else digest_of(self.chat_template),
            invocation_tokens=self.config.invocation_tokens,
        )

    def scaling(self, module: str) -> float:
        """Return the factor on ``B A`` at one module: ``alpha / r`` or ``alpha / sqrt(r)``."""
        return self.config.scaling_of(module)


def read_adapter_files(
    folder: Path, *, links_below: Path | None = None, to_convert: bool = False
) -> AdapterFiles:
    """Read and check everything except the tensors' data.

    Args:
        folder: with PEFT's files.
        links_below: where the target of a symlink may be, apart from ``folder`` itself.
        to_convert: as of ``read_peft_config``.

    Raises:
        AdapterMalformed: a file is missing or malformed; the tensors and the config disagree.
        AdapterUnsafePath: a file is a symlink out of the folder.
        AdapterPickle: the weights are a pickle.
        AdapterUnsupported: a PEFT feature that Braid does not serve, by name.
    """
    allowed = (folder,) if links_below is None else (folder, links_below)

    def optional(name: str) -> Path | None:
        path = folder / name
        found = path.is_symlink() or path.exists()  # a link that leads nowhere is refused
        return _inside(folder, name, allowed) if found else None

    config_path = _inside(folder, CONFIG_FILE, allowed)
    if not (folder / WEIGHTS_FILE).exists() and (folder / PICKLE_FILE).exists():
        raise AdapterPickle(
            f"{folder / PICKLE_FILE}: pickle files are never opened; save the adapter as "
            f"{WEIGHTS_FILE}"
        )
    config = read_peft_config(config_path, to_convert=to_convert)
    weights = _inside(folder, WEIGHTS_FILE, allowed)
    header = read_header(weights)
    names = read_tensor_names(str(weights), (info.name for info in header.tensors))
    modules = group_modules(weights, header, names)
    check_modules(weights, config, modules, names)
    labels_path = optional(LABELS_FILE)
    labels = Labels() if labels_path is None else read_labels(labels_path)
    return AdapterFiles(
        config,
        header,
        modules,
        names.vocabulary,
        labels,
        weights,
        chat_template=read_chat_template(optional(TEMPLATE_FILE), optional(TOKENIZER_FILE)),
        notes=tuple(_notes(config, names, labels)),
    )


@dataclass(frozen=True, slots=True)
class ReadAdapter:
    """Holds the contents of a folder of which every byte has been read."""

    manifest: AdapterManifest
    tags: tuple[str, ...]
    notes: tuple[str, ...]  # as of ``AdapterFiles``, and what the base adds to them


def read_manifest(
    folder: Path, *, links_below: Path | None = None
) -> tuple[AdapterManifest, tuple[str, ...]]:
    """Read the folder's manifest and tags; as ``read_adapter``."""
    found = read_adapter(folder, links_below=links_below)
    return found.manifest, found.tags


def read_adapter(folder: Path, *, links_below: Path | None = None) -> ReadAdapter:
    """Read a folder; reads every byte once, and keeps none.

    Raises:
        AdapterError: as ``read_adapter_files``.
    """
    files = read_adapter_files(folder, links_below=links_below)
    digest = AdapterDigester(files)
    for info, data in stream_tensors(files):
        digest.update(info, data)
    return ReadAdapter(files.manifest(digest.finish()), files.labels.tags, files.notes)


def stream_tensors(files: AdapterFiles) -> Iterator[tuple[TensorInfo, memoryview]]:
    """Yield each tensor with its bytes, in name order; the bytes are valid until the next one.

    Raises:
        AdapterMalformed: the file cannot be read or has changed since its header was read.
    """
    with _weights(files) as file:
        yield from read_tensors(file, files.weights, files.header)


def read_all(files: AdapterFiles) -> memoryview:
    """Read the bytes of all tensors, each at its header's offsets.

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
    """Hash what an adapter computes: scaling rules and base, then each tensor in name order.

    Its own chat template enters where it has one: its prompts are other ones then. Descriptions,
    provenance and training settings do not enter: editing them makes no new version. Neither
    does the order of tensors in the file.
    """

    def __init__(self, files: AdapterFiles) -> None:
        config = files.config
        rules: dict[str, Any] = {
            "rank": config.rank,
            "alpha": config.alpha,
            "use_rslora": config.use_rslora,
            "rank_pattern": config.rank_pattern,
            "alpha_pattern": config.alpha_pattern,
            "base_digest": files.labels.base_digest,
        }
        if files.chat_template is not None:
            rules["chat_template"] = digest_of(files.chat_template)
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
        """Return the digest, which is the version's name."""
        return AdapterDigest(self._hash.hexdigest())


def _inside(folder: Path, name: str, allowed: tuple[Path, ...]) -> Path:
    """Resolve the path of a file of the folder; a symlink may lead only to permitted places."""
    path = folder / name
    try:
        resolved = path.resolve()
    except (OSError, RuntimeError) as error:
        raise AdapterMalformed(
            f"{path}: expected a file, found a symlink that leads to itself"
        ) from error
    if not any(resolved.is_relative_to(place.resolve()) for place in allowed):
        raise AdapterUnsafePath(f"{path}: a symlink out of the adapter's folder, to {resolved}")
    if not resolved.exists():
        raise AdapterMalformed(f"{path}: expected a file, found none")
    if not resolved.is_file() or not os.access(resolved, os.R_OK):
        raise AdapterMalformed(f"{path}: expected a readable file")
    return resolved


def _notes(config: PeftLoraConfig, names: TensorNames, labels: Labels) -> Iterator[str]:
    if config.unknown_keys:
        yield f"adapter_config.json: not known and without effect: {listed(config.unknown_keys)}"
    if names.wrapper:
        yield f"{WEIGHTS_FILE}: {names.wrapper} is taken out of the tensors' names"
    if names.adapter not in ("", PEFT_NAME):
        yield (
            f"{WEIGHTS_FILE}: the adapter's name {shown_name(names.adapter)} is taken out of the "
            "tensors' names; PEFT applies them where it loads them under that name"
        )
    if labels.is_foreign:
        yield f"{LABELS_FILE}: another tool's, not read"


def listed(names: Collection[str]) -> str:
    """List the first few names, and count the rest."""
    first = ", ".join(shown_name(name) for name in list(names)[:MAX_NAMED])
    more = len(names) - MAX_NAMED
    return f"{first} and {more} more" if more > 0 else first
