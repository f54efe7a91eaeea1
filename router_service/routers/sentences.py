"""Where sentences end in text that is still being written: the boundaries of re-routing.

DLP-LoRA (arXiv 2410.01497) routes again at each new sentence and does not say how ends are found;
these rules are ours. An end is known as soon as the first character of the next sentence is there,
and never later taken back: feeding a text in any pieces gives the ends of the whole text.
"""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from cluster.config import Section

_SPACED = frozenset(".!?…।")  # an end where white space follows
_WIDE = frozenset("。！？｡")  # an end by themselves
_TERMINALS = _SPACED | _WIDE
_CLOSERS = frozenset("\"'”’»)]}」』）")
_ABBREVIATIONS = frozenset(
    word
    for words in (
        "mr mrs ms dr prof sr jr st mt no vs etc cf approx dept est fig figs eq eqs ref sec chap",
        "vol ed eds pp p e.g i.e a.m p.m u.s u.k ph.d inc ltd co corp jan feb mar apr jun jul aug",
        "sep sept oct nov dec bzw z.b d.h usw ca al",
    )
    for word in words.split()
)


class SentenceConfig(Section):
    """How finely text is cut."""

    min_characters: Annotated[int, Field(ge=1)] = 24
    """A shorter sentence is joined with the next one."""


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What one place in the text is: an end at ``end``, or none; go on reading at ``resume``."""

    resume: int
    end: int | None = None


class SentenceSplitter:
    """Finds sentence ends in text that arrives in pieces. Offsets count characters from the start.

    An end is the offset just after the closing punctuation; white space belongs to what follows.
    """

    def __init__(self, config: SentenceConfig | None = None) -> None:
        self._config = config or SentenceConfig()
        self._text = ""  # from the last end on
        self._offset = 0  # of ``_text`` in the whole text
        self._next = 0  # first character of ``_text`` that is not judged yet

    def feed(self, piece: str) -> list[int]:
        """Take more text; returns the ends that are certain now and were not before."""
        self._text += piece
        return self._advance(final=False)

    def finish(self) -> list[int]:
        """The text is complete; returns the remaining ends, the end of the text among them."""
        ends = self._advance(final=True)
        if self._text.strip():
            ends.append(self._offset + len(self._text))
        self._text, self._offset, self._next = "", self._offset + len(self._text), 0
        return ends

    def _advance(self, *, final: bool) -> list[int]:
        ends: list[int] = []
        while self._next < len(self._text):
            verdict = _judge(self._text, self._next, final=final)
            if verdict is None:
                break
            self._next = verdict.resume
            if verdict.end is not None and verdict.end >= self._config.min_characters:
                ends.append(self._offset + verdict.end)
                self._text = self._text[verdict.end :]
                self._offset += verdict.end
                self._next -= verdict.end
        return ends


def sentence_ends(text: str, config: SentenceConfig | None = None) -> list[int]:
    """The ends of a whole text."""
    splitter = SentenceSplitter(config)
    return splitter.feed(text) + splitter.finish()


def sentences(text: str, config: SentenceConfig | None = None) -> list[str]:
    """The sentences of a whole text, without the white space around them."""
    ends = sentence_ends(text, config)
    return [text[a:b].strip() for a, b in zip([0, *ends], ends, strict=False)]


def last_full_sentences(text: str, count: int, config: SentenceConfig | None = None) -> str:
    """The last ``count`` sentences that are certainly over; "" where there is none."""
    ends = [0, *SentenceSplitter(config).feed(text)]
    return text[ends[max(0, len(ends) - 1 - count)] : ends[-1]].strip()


def _judge(text: str, at: int, *, final: bool) -> _Verdict | None:
    """What stands at ``at``; None where more text must come first."""
    character = text[at]
    if character == "\n":
        if at + 1 == len(text):
            return _Verdict(at + 1) if final else None
        return _Verdict(at + 1, end=at if text[at + 1] == "\n" else None)
    if character not in _TERMINALS:
        return _Verdict(at + 1)
    stop = at
    while stop < len(text) and text[stop] in _TERMINALS:
        stop += 1
    run = text[at:stop]
    while stop < len(text) and text[stop] in _CLOSERS:
        stop += 1
    if stop == len(text) and not final:
        return None
    if stop == len(text) or run[-1] in _WIDE:
        return _Verdict(stop, end=stop)
    if not text[stop].isspace():
        return _Verdict(stop)
    follows = stop
    while follows < len(text) and text[follows].isspace():
        follows += 1
    if follows == len(text):
        return _Verdict(stop, end=stop) if final else None
    ended = not text[follows].islower() and (run != "." or _may_end(text, at))
    return _Verdict(stop, end=stop if ended else None)


def _may_end(text: str, period: int) -> bool:
    """Whether one full stop at ``period`` can end a sentence, by the word before it."""
    start = period
    while start > 0 and not text[start - 1].isspace() and text[start - 1] not in _CLOSERS | {"("}:
        start -= 1
    word = text[start:period]
    if word.casefold() in _ABBREVIATIONS:
        return False
    if len(word) == 1 and word.isalpha() and word != "I":
        return False  # an initial
    opens_line = not text[:start].rpartition("\n")[2].strip()
    return not (word.isdigit() and opens_line)  # "2." numbers a list
