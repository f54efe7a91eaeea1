"""A trained router on disk: ``router.json`` (manifest) and ``router.safetensors``.

``version`` is the sha256 over the manifest's other fields and the tensor file, so a manifest whose
candidates were re-ordered, or weights of another training, are refused when the router is loaded.
"""

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load, save

from cluster.config import Section
from cluster.domain.adapter import AdapterEntry
from cluster.domain.decision import tagged_digest
from cluster.errors import ConfigError
from router_service.routers.base import BASE_ALIAS
from router_service.whole_file import replace_file

MANIFEST_FILE = "router.json"
TENSOR_FILE = "router.safetensors"


class RouterManifest(Section):
    """What a router artifact says about itself."""

    format: Literal[1] = 1
    kind: str
    candidates: tuple[str, ...] = Field(min_length=1)
    """Aliases in class order; "" is the base model without an adapter."""
    base_digest: str | None = None
    """Digest of the base model whose states the router reads; unset: it reads text only."""
    adapter_digests: dict[str, str] | None = None
    """Version of each candidate that the router was made for; unset: any version serves."""
    hyperparameters: dict[str, Any]
    data_digest: str
    """sha256 of the training examples."""
    metrics: dict[str, float] = Field(default_factory=dict)
    """Measured after training, for people."""
    version: str = ""


Tensors = Mapping[str, NDArray[np.floating]]
S = TypeVar("S", bound=Section)


def save_artifact(path: Path, manifest: RouterManifest, tensors: Tensors) -> RouterManifest:
    """Write both files, each replaced atomically; returns the manifest with its version."""
    encoded = save({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()})
    manifest = manifest.model_copy(update={"version": _version(manifest, encoded)})
    document = json.dumps(manifest.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"
    path.mkdir(parents=True, exist_ok=True)
    replace_file(path / TENSOR_FILE, encoded)
    replace_file(path / MANIFEST_FILE, document.encode())
    return manifest


def load_artifact(
    path: Path,
    *,
    kind: str,
    aliases: Collection[str],
    base_digest: str | None,
    adapters: Mapping[str, AdapterEntry] | None = None,
) -> tuple[RouterManifest, dict[str, NDArray[np.floating]]]:
    """Read and verify a router.

    ``aliases``: of every adapter in the catalog, whoever owns it. ``base_digest``: of the base
    model being served, where it is known. ``adapters``: the catalog, where versions matter.

    Raises:
        ConfigError: unreadable, of another kind, changed since it was written, trained for
            adapters that are not there, for other versions of them or for another base. The
            message has the path.
    """
    manifest = read_manifest(path)
    tensor_path = path / TENSOR_FILE
    try:
        encoded = tensor_path.read_bytes()
        tensors = load(encoded)
    except (OSError, SafetensorError, KeyError, TypeError) as error:
        raise ConfigError(f"{tensor_path}: not a readable safetensors file: {error}") from error
    where = path / MANIFEST_FILE
    if manifest.kind != kind:
        raise ConfigError(f"{where}: kind is {manifest.kind!r}, not {kind!r}")
    if manifest.version != _version(manifest, encoded):
        raise ConfigError(
            f"{where}: version does not match the content; the candidates, their order, "
            f"a setting or {TENSOR_FILE} was changed after training"
        )
    if len(set(manifest.candidates)) != len(manifest.candidates):
        raise ConfigError(f"{where}: a candidate is named twice")
    missing = [a for a in manifest.candidates if a != BASE_ALIAS and a not in aliases]
    if missing:
        raise ConfigError(
            f"{where}: candidates that are no adapters here: {', '.join(missing)}; "
            "add them or train the router again"
        )
    if None not in (manifest.base_digest, base_digest) and manifest.base_digest != base_digest:
        raise ConfigError(
            f"{where}: trained for base {manifest.base_digest}, but {base_digest} is served"
        )
    for alias, digest in (manifest.adapter_digests or {}).items():
        entry = (adapters or {}).get(alias)
        if entry is not None and entry.key.digest != digest:
            raise ConfigError(
                f"{where}: adapter_digests.{alias}: made for version {digest}, "
                f"but {entry.key.digest} is served"
            )
    return manifest, tensors


def read_manifest(path: Path) -> RouterManifest:
    """The manifest in an artifact's folder, its fields checked and its version not.

    Raises:
        ConfigError: unreadable or with wrong fields.
    """
    where = path / MANIFEST_FILE
    try:
        return RouterManifest.model_validate_json(where.read_bytes())
    except OSError as error:
        raise ConfigError(f"{where}: cannot be read: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{where}: {field}: {first['msg']}") from error


def parse_hyperparameters(path: Path, manifest: RouterManifest, kind: type[S]) -> S:
    """The manifest's hyper-parameters as ``kind``.

    Raises:
        ConfigError: one of them is unknown, missing or wrong; the message has file and field.
    """
    try:
        return kind.model_validate(manifest.hyperparameters)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise ConfigError(
            f"{path / MANIFEST_FILE}: hyperparameters.{field}: {first['msg']}"
        ) from error


def adapter_versions(path: Path, manifest: RouterManifest) -> tuple[str, ...]:
    """Digests of a router's adapters in the order of its candidates, all different.

    Raises:
        ConfigError: one is not told, or two are of one version.
    """
    where = f"{path / MANIFEST_FILE}: adapter_digests"
    digests = manifest.adapter_digests or {}
    untold = [alias for alias in manifest.candidates if not digests.get(alias)]
    if untold:
        raise ConfigError(f"{where}: expected one of each candidate, {untold[0]!r} has none")
    check_different(where, {alias: digests[alias] for alias in manifest.candidates})
    return tuple(digests[alias] for alias in manifest.candidates)


def check_different(where: str, digests: Mapping[str, str]) -> None:
    """Refuse two names of one version among adapters that are weighed side by side.

    The engine knows adapters by version: it would add both weights up, for each of the two.

    Args:
        where: what names them, for the message.
        digests: version of each alias.

    Raises:
        ConfigError: the message has both names.
    """
    names: dict[str, str] = {}
    for alias, digest in digests.items():
        if digest in names:
            raise ConfigError(
                f"{where}: {names[digest]!r} and {alias!r} are the same adapter, version "
                f"{digest[:12]}; name it once"
            )
        names[digest] = alias


def check_tensors(path: Path, tensors: Tensors, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise ConfigError unless exactly these tensors are there, in these shapes, all finite."""
    where = path / TENSOR_FILE
    if tensors.keys() != shapes.keys():
        wrong = ", ".join(sorted(tensors.keys() ^ shapes.keys()))
        raise ConfigError(f"{where}: tensors missing or unknown: {wrong}")
    for name, shape in shapes.items():
        tensor = tensors[name]
        if tensor.shape != shape:
            raise ConfigError(f"{where}: {name} has shape {tensor.shape}, not {shape}")
        if not np.issubdtype(tensor.dtype, np.floating) or not np.isfinite(tensor).all():
            raise ConfigError(f"{where}: {name} holds values that are not finite numbers")


def _version(manifest: RouterManifest, encoded: bytes) -> str:
    content = manifest.model_dump(mode="json", exclude={"version"})
    if manifest.adapter_digests is None:
        del content["adapter_digests"]  # artifacts written before the field keep their version
    canonical = json.dumps(content, sort_keys=True, ensure_ascii=False).encode()
    return tagged_digest(("manifest", canonical), ("tensors", hashlib.sha256(encoded).digest()))
