"""Names under which a base model answers."""


def short_name(model_id: str) -> str:
    """Return the last part of a model's id: ``name`` of ``organisation/name``."""
    return model_id.rstrip("/").rsplit("/", 1)[-1]


def base_names(model_id: str) -> tuple[str, str]:
    """Return both names of a base model: its id, and the id's last part."""
    return model_id, short_name(model_id)
