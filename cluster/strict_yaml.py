"""YAML of operators' files: safe, and a key that is written twice is an error."""

from collections.abc import Hashable
from typing import Any

import yaml

try:
    from yaml import CSafeLoader as _SafeLoader  # ten times as fast, where it was built
except ImportError:
    from yaml import SafeLoader as _SafeLoader  # type: ignore[assignment] # the same interface


class _StrictLoader(_SafeLoader):
    """Refuses a key that is written twice instead of keeping the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = key_node.value
            if isinstance(key, Hashable) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f'key "{key}" is written twice', key_node.start_mark
                )
            seen.add(key if isinstance(key, Hashable) else id(key))
        return super().construct_mapping(node, deep)


def load_strict_yaml(content: str | bytes) -> Any:
    """Return the one document in ``content``.

    Raises:
        yaml.YAMLError: not YAML, or a key is written twice.
        UnicodeDecodeError: bytes that are not text.
    """
    return yaml.load(content, Loader=_StrictLoader)
