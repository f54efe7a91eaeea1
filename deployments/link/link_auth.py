"""A link is accepted only from a process that knows the cluster's signing key."""

import hashlib
import hmac

HEADER = "x-braid-link"


def link_token(signing_key: bytes) -> str:
    """Return the value of the link header: derived from the signing key, useless for signing."""
    return hmac.new(signing_key, b"braid link v1", hashlib.sha256).hexdigest()


def token_matches(signing_key: bytes, presented: str) -> bool:
    """Compare a presented token in constant time."""
    return hmac.compare_digest(link_token(signing_key), presented)
