"""Keeps special tokens that are written into messages from being anything but text.

A chat template writes special tokens around the messages, and the tokenizer cannot tell them from
the same characters within a message. Here a mark, a character that occurs nowhere else, is put into
those within before the template is rendered, and comes out of the rendered text again. What had a
mark in it is text. The others are the template's own.

Texts without such characters are encoded as always, by the tokenizer itself.
"""

import itertools
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, Tokenizer

from cluster.errors import RequestError

PRIVATE_USE = range(0xF0000, 0xFFFFE)
"""Characters that no standard gives a meaning, and hardly anybody sends."""

USER = "user"


@dataclass(frozen=True, slots=True)
class Marked:
    """Holds a conversation with marks."""

    messages: list[dict[str, str]]
    variables: dict[str, Any]
    mark: str


class WrittenTokens:
    """Finds special tokens in messages, and encodes them as text.

    A message of any role has special tokens as text. A user's message also has as text what the
    tokenizer adds without calling it special, where the template writes it: some models' turns are
    such tokens. In other messages those are tokens, as ``<think>`` is in an assistant's.

    Args:
        backend: the tokenizer.
        template: the source of the chat template.
        nonce: characters that no client can guess. They name the template's tokens while a text is
            encoded that has others.
    """

    def __init__(self, backend: Tokenizer, template: str, nonce: str) -> None:
        self._backend = backend
        added = sorted(backend.get_added_tokens_decoder().items())
        special = {token.content for _, token in added if token.special and token.content}
        written = {
            token.content
            for _, token in added
            if token.content.strip() and token.content in template
        }
        self._by_role = {USER: _Finder(special | written)}
        self._others = _Finder(special)
        self._all = self._by_role[USER]
        names = {
            content: f"{chr(PRIVATE_USE[0])}{nonce}{number}{chr(PRIVATE_USE[1])}"
            for number, content in enumerate(sorted(special | written))
        }
        self._names = names
        self._guard = Tokenizer(backend.model)
        if backend.normalizer is not None:
            self._guard.normalizer = backend.normalizer
        if backend.pre_tokenizer is not None:
            self._guard.pre_tokenizer = backend.pre_tokenizer
        self._guard.add_tokens([_named(token, names) for _, token in added])
        self._ids: dict[int, int] = {}  # of the guard's added tokens: the tokenizer's own
        for number, token in added:
            guarded = self._guard.token_to_id(names.get(token.content, token.content))
            if guarded is not None:
                self._ids[guarded] = number
        self._own = frozenset(n for n, token in added if token.content in names)

    def marked(
        self, messages: Sequence[Mapping[str, str]], variables: Mapping[str, Any]
    ) -> Marked | None:
        """Mark a conversation; returns None if there is nothing to mark.

        Raises:
            RequestError: no character is left for a mark.
        """
        places = [self._finder(message).places(message["content"]) for message in messages]
        strings = list(_strings(variables))
        if not any(places) and not any(self._all.places(text) for text in strings):
            return None
        used = set(itertools.chain(*(message["content"] for message in messages), *strings))
        mark = next((chr(code) for code in PRIVATE_USE[2:] if chr(code) not in used), None)
        if mark is None:
            raise RequestError(
                "messages: they have every character of private use: leave one out",
                param="messages",
            )
        return Marked(
            [
                {**message, "content": _insert(message["content"], found, mark)}
                for message, found in zip(messages, places, strict=True)
            ],
            {name: self._mark(value, mark) for name, value in variables.items()},
            mark,
        )

    def encode(self, rendered: str, mark: str) -> list[int]:
        """Return the token ids of what a template made of a marked conversation.

        Raises:
            RequestError: this tokenizer cannot write such a token as text.
        """
        parts = rendered.split(mark)
        text = "".join(parts)
        marks: list[int] = []
        end = 0
        for part in parts[:-1]:
            end += len(part)
            marks.append(end)
        own, others = self._all.divide(text, marks)
        if not others:
            return self._encoded(self._backend, text)
        pieces: list[str] = []
        end = 0
        for start, content in own:
            pieces += [text[end:start], self._names[content]]
            end = start + len(content)
        pieces.append(text[end:])
        ids = self._encoded(self._guard, "".join(pieces))
        known = [self._ids.get(number) for number in ids]
        named = sum(number in self._own for number in known if number is not None)
        leaked = any(
            number in self._own for number, kept in zip(ids, known, strict=True) if kept is None
        )
        if named != len(own) or leaked:
            raise RequestError(
                f"messages: this model's tokenizer cannot write {others[0]!r} as text: "
                "leave it out",
                param="messages",
            )
        return [number if kept is None else kept for number, kept in zip(ids, known, strict=True)]

    def _finder(self, message: Mapping[str, str]) -> "_Finder":
        return self._by_role.get(message["role"], self._others)

    def _mark(self, value: Any, mark: str) -> Any:
        if isinstance(value, str):
            return _insert(value, self._all.places(value), mark)
        if isinstance(value, Mapping):
            return {name: self._mark(item, mark) for name, item in value.items()}
        if isinstance(value, list):
            return [self._mark(item, mark) for item in value]
        return value

    @staticmethod
    def _encoded(tokenizer: Tokenizer, text: str) -> list[int]:
        (encoding,) = tokenizer.encode_batch([text], add_special_tokens=False)
        ids: list[int] = encoding.ids
        return ids


class _Finder:
    """Finds some tokens in texts, also where one may begin or end outside of the text."""

    def __init__(self, contents: Iterable[str]) -> None:
        longest_first = sorted(contents, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        self._starts = frozenset(
            content[:size] for content in longest_first for size in range(1, len(content))
        )
        self._ends = frozenset(
            content[size:] for content in longest_first for size in range(1, len(content))
        )
        self._first = frozenset(content[0] for content in longest_first)
        self._last = frozenset(content[-1] for content in longest_first)
        self._longest = len(longest_first[0]) if longest_first else 0

    def places(self, text: str) -> list[int]:
        """Return where marks go: within each token, and at an edge that a token may cross."""
        found = {start + min(1, len(content) - 1) for start, content in self._matches(text)}
        inner = text.strip()
        if not inner:
            return sorted(found)
        begin = len(text) - len(text.lstrip())
        head = inner[: self._longest]
        if any(head[i] in self._last and head[: i + 1] in self._ends for i in range(len(head))):
            found.add(begin)
        tail = inner[-self._longest :] if self._longest else ""
        if any(tail[i] in self._first and tail[i:] in self._starts for i in range(len(tail))):
            found.add(begin + len(inner))
        return sorted(found)

    def divide(self, text: str, marks: list[int]) -> tuple[list[tuple[int, str]], list[str]]:
        """Return tokens without a mark as (start, token), in order and apart; and the others."""
        own: list[tuple[int, str]] = []
        others: list[str] = []
        position = 0
        while (match := self._pattern.search(text, position)) is not None:
            start, end = match.span()
            low = start if end - start == 1 else start + 1
            if bisect_left(marks, low) < bisect_right(marks, end - 1):
                others.append(match[0])
                position = start + 1
            else:
                own.append((start, match[0]))
                position = end
        return own, others

    def _matches(self, text: str) -> Iterable[tuple[int, str]]:
        position = 0
        while (match := self._pattern.search(text, position)) is not None:
            yield match.start(), match[0]
            position = match.start() + 1


def _named(token: AddedToken, names: Mapping[str, str]) -> AddedToken:
    return AddedToken(
        names.get(token.content, token.content),
        single_word=token.single_word,
        lstrip=token.lstrip,
        rstrip=token.rstrip,
        normalized=token.normalized,
        special=token.special,
    )


def _insert(text: str, places: list[int], mark: str) -> str:
    if not places:
        return text
    edges = [0, *places, len(text)]
    return mark.join(text[a:b] for a, b in itertools.pairwise(edges))


def _strings(value: Any) -> Iterable[str]:
    """Return all texts within a JSON value; names of members are not among them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)
