"""Defines the prompts that the front can read: conversations, texts and token ids."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from deployments.front.text.chat_template import PLAIN, TemplateOptions


@dataclass(frozen=True, slots=True)
class Conversation:
    """Holds messages that a chat template turns into one prompt."""

    messages: tuple[Mapping[str, str], ...]  # members ``role`` and ``content``
    turns: tuple[str, ...]  # the user's texts that a router reads, the last one last
    options: TemplateOptions = PLAIN
    parts: int = 0  # parts of all messages' contents, as they were sent

    @property
    def characters(self) -> int:
        """Return the length of all messages."""
        return sum(len(message["content"]) for message in self.messages)


@dataclass(frozen=True, slots=True)
class PlainPrompts:
    """Holds prompts that are continued as they are; each a text or its token ids."""

    items: tuple[str | tuple[int, ...], ...]

    @property
    def texts(self) -> tuple[str, ...]:
        """Return the prompts that were given as text."""
        return tuple(item for item in self.items if isinstance(item, str))


@dataclass(frozen=True, slots=True)
class Prompts:
    """Holds the token ids to continue, and the texts that a router reads."""

    ids: tuple[tuple[int, ...], ...]
    turns: tuple[str, ...] = field(default=())  # the last one last

    @property
    def tokens(self) -> int:
        """Return the tokens of all prompts, each counted once."""
        return sum(map(len, self.ids))
