"""A file that others write: a new content counts once it is whole."""

from collections.abc import Callable
from pathlib import Path

from cluster.errors import ConfigError
from cluster.regular_file import read_regular

Read = Callable[[Path], bytes]


class SettledFile:
    """The content that two looks in a row have seen. Owned by one caller at a time.

    So a file that is being written is not taken for a shorter one. ``unsettled`` says that another
    look is worth while: the content has changed since the last one.

    Args:
        content: counts from the start; None: none does yet.
    """

    def __init__(self, path: Path, read: Read = read_regular, content: bytes | None = None) -> None:
        self._path = path
        self._read = read
        self._seen = content
        self.content = content  # None: there was none, or it cannot be read
        self.problem = ""  # why it cannot be read
        self.unsettled = False

    def look(self) -> bool:
        """Read the file. Reports whether another content counts now, or none can be read.

        The content itself is compared: a file replaced within the clock's resolution, as mounted
        configuration often is, has the modification time of its predecessor.
        """
        try:
            content: bytes | None = self._read(self._path)
            problem = ""
        except ConfigError as error:
            content, problem = None, error.message
        settled, self._seen = content == self._seen, content
        self.unsettled = not settled
        if not settled or (content is not None and content == self.content):
            return False
        self.content, self.problem = content, problem
        return True
