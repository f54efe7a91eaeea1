"""Reads a client's key from ``Authorization``, or from the headers of two other APIs."""

from starlette.datastructures import Headers

from cluster.errors import AuthenticationFailed

KEY_HEADERS = ("x-api-key", "api-key")
SCHEME = "bearer"


def authorization_of(headers: Headers) -> str | None:
    """Return the request's key in the form of ``Authorization``, or None if there is none.

    Raises:
        AuthenticationFailed: two keys that differ, so that it is unclear whose request it is.
    """
    given = headers.getlist("authorization")
    given += [f"Bearer {key}" for name in KEY_HEADERS for key in headers.getlist(name)]
    if len(given) > 1 and len({_parts(value) for value in given}) > 1:
        raise AuthenticationFailed(
            "The headers Authorization, x-api-key and api-key give different keys: send one of them"
        )
    return given[0] if given else None


def _parts(authorization: str) -> tuple[str, str]:
    scheme, _, key = authorization.strip().partition(" ")
    return scheme.lower(), key.strip()
