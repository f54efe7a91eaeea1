"""Checks names that come from outside: archive members, folders, parts of an upload."""

from cluster.errors import AdapterUnsafePath

MAX_PATH_CHARS = 1024


def safe_parts(path: str) -> tuple[str, ...]:
    """Split a relative path at ``/``; ``.`` and empty parts are left out.

    Raises:
        AdapterUnsafePath: absolute, with ``..``, a backslash, a drive letter or a control
            character, too long, or nothing at all.
    """
    shown = repr(path[:100])
    if len(path) > MAX_PATH_CHARS:
        raise AdapterUnsafePath(
            f"{shown}...: expected a path of at most {MAX_PATH_CHARS} characters"
        )
    if path.startswith("/"):
        raise AdapterUnsafePath(f"{shown}: expected a relative path, found an absolute one")
    if "\\" in path or path[1:2] == ":":
        raise AdapterUnsafePath(f"{shown}: expected '/' between parts, found a Windows path")
    if not path.isprintable():
        raise AdapterUnsafePath(f"{shown}: expected printable characters only")
    parts = tuple(part for part in path.split("/") if part not in {"", "."})
    if ".." in parts:
        raise AdapterUnsafePath(f"{shown}: expected a path inside its folder, found '..'")
    if not parts:
        raise AdapterUnsafePath(f"{shown}: expected the name of a file or folder")
    return parts
