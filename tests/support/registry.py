"""Versions without files, for tests of the registry."""

from cluster.adapters.registry.records import AdapterVersion, Place, PlaceKind, VersionState
from cluster.domain.adapter import AdapterManifest
from cluster.domain.ids import AdapterDigest


def digest(letter: str) -> AdapterDigest:
    return AdapterDigest(letter * 64)


def version(letter: str, kind: PlaceKind = PlaceKind.STORE, path: str = "") -> AdapterVersion:
    """Return a staged version whose digest is ``letter``, 64 times."""
    manifest = AdapterManifest(
        digest=digest(letter),
        rank=4,
        alpha=8.0,
        use_rslora=False,
        target_modules=("q_proj",),
        modules=("model.layers.0.self_attn.q_proj",),
        max_rank=4,
        nbytes=1024,
        base_model="org/base",
        base_digest=None,
    )
    staged = VersionState.STAGED
    return AdapterVersion(manifest, Place(kind, path), staged, f"upload {letter}", 1.0, 1.0)
