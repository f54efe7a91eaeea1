"""Refuses adapters that cannot be weighed inside the model: they apply to whole rows of layers."""

from cluster.domain.adapter import AdapterManifest
from cluster.errors import AdapterUnsupported

HEADS = frozenset({"lm_head", "embed_out"})
"""Names of an output head."""


def check_weighable(name: str, manifest: AdapterManifest) -> None:
    """Refuse an adapter with weights that would be decided inside the model, layer by layer.

    Raises:
        AdapterUnsupported: it is an activated LoRA, or has LoRA on the output head, which lies in
            no layer; the message begins with ``name``.
    """
    if manifest.invocation_tokens:
        what = "an activated LoRA (alora_invocation_tokens)"
    elif HEADS & {module.rpartition(".")[2] for module in manifest.modules}:
        what = "an adapter with LoRA on the output head"
    else:
        return
    raise AdapterUnsupported(
        f"{name}: {what} cannot be weighed inside the model; name it in a request's mixture or "
        "use a router that reads the text"
    )
