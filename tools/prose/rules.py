"""Holds the rules of prose: openings of docstrings, and phrases with their rewrites."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from tools.prose.texts import DOCSTRINGS, Kind, Prose, blank_code
from tools.prose.verbs import is_verb

RIDDLES = frozenset(
    {"what", "who", "whose", "whom", "whether", "where", "which", "how", "why", "from"}
)
"""First words of a docstring that leave open what the thing does."""


@dataclass(frozen=True)
class Phrase:
    """A phrase that is banned, and what to write."""

    pattern: re.Pattern[str]
    rewrite: str


def _phrase(pattern: str, rewrite: str) -> Phrase:
    return Phrase(re.compile(pattern.replace(" ", r"\s+"), re.IGNORECASE), rewrite)


_POINTS_ELSEWHERE = re.compile(r"See (?:`|the |[A-Z])")
_BE = r"(?:is|are|was|were|be)"
_THERE = r"(?P<fine>\bthere )?"
"""Lets the phrase pass if it is found too: "there is no" is English."""
PHRASES = (
    # "is no longer" and "is no more than" are English as well.
    _phrase(
        _THERE + r"\b(?:is|are|was|were) no"
        r"(?! (?:longer|more|less|fewer|better|worse|larger|smaller|other|later|earlier|one)\b)"
        r" (?=[a-z`\"'{%])",
        'write "is not a ..." or "has no ..."',
    ),
    _phrase(_THERE + rf"\b{_BE} (?-i:none)\b(?! of\b)", 'write "is not ..."'),
    _phrase(r"\bNone where\b", 'write "or None if ..."'),
    _phrase(r"\bempty where\b", 'write "or empty if ..."'),
    _phrase(r"\bwhere there (?:is|are|was|were)\b", 'write "if there is ..."'),
    _phrase(r"\bsomebody(?:'s)?\b", 'name who: "another request", "a caller"'),
    _phrase(r"\bnobody(?:'s)?\b(?! ?:)", 'write "no one", or name who: "no client"'),
    _phrase(r"\bwhoever\b", 'name who: "the caller", "the client"'),
    _phrase(r"\banew\b", 'write "again"'),
    _phrase(r"\blately\b", 'write "recently"'),
    _phrase(r"\b(?:let|lets|letting)(?: \w+)? go\b", 'write "release"'),
    _phrase(r"\bwithout a word\b", 'write "unexpectedly"'),
    _phrase(r"\b(?:breaks?|broke|broken|breaking) off\b", 'write "is closed", "ends early"'),
    _phrase(r"\bbeside\b", 'write "next to", "compared with", "as well as"'),
    _phrase(
        r"\b(?:is|are|was|were|be|been|being) told\b(?! apart)",
        'write "is notified of", "receives"',
    ),
    _phrase(
        r"\b(?:go|goes|going|went) on(?= (?:with|from|to|until|as|in|where|when|elsewhere)\b)",
        'write "continue"',
    ),
    _phrase(rf"\b{_BE} away\b", 'write "is unreachable", "is down"'),
    _phrase(r"\b(?:give|gives|giving|gave) way\b", 'write "yield", "lower its priority"'),
)


@dataclass(frozen=True)
class Fault:
    """A place that breaks a rule.

    Attributes:
        rule: "riddle", "opening" or "phrase"; counts are kept by rule.
    """

    path: str
    line: int
    rule: str
    quote: str
    rewrite: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.rule}: {self.quote!r}: {self.rewrite}"


def check_prose(prose: Prose) -> Iterator[Fault]:
    """Yield the faults of a piece of prose, in order of their kind."""
    if prose.kind in DOCSTRINGS:
        yield from _check_opening(prose)
    text = blank_code(prose.text)
    for phrase in PHRASES:
        for found in phrase.pattern.finditer(text):
            if found.groupdict().get("fine"):
                continue
            line = prose.line + text.count("\n", 0, found.start())
            yield Fault(prose.path, line, "phrase", _around(text, found), phrase.rewrite)


def first_word(text: str) -> str:
    """Return the first word of a docstring, without punctuation; code is returned as it is."""
    words = text.split(maxsplit=1)
    return words[0].strip(".,:;!?") if words else ""


def opens_with_riddle(text: str) -> bool:
    """Return whether a docstring opens with one of ``RIDDLES``, or only points elsewhere."""
    return first_word(text).lower() in RIDDLES or bool(_POINTS_ELSEWHERE.match(text.strip()))


def _check_opening(prose: Prose) -> Iterator[Fault]:
    line = next(iter(prose.text.strip().splitlines()), "")
    quote = line if len(line) <= 60 else line[:57] + "..."
    if opens_with_riddle(prose.text):
        yield Fault(
            prose.path,
            prose.line,
            "riddle",
            quote,
            'open with a verb and its object: "Return whether ...", "Holds ..."',
        )
    elif prose.kind is Kind.FUNCTION and not is_verb(prose.text):
        yield Fault(
            prose.path,
            prose.line,
            "opening",
            quote,
            'open with a verb: "Return ...", "Compute ..."; a verb that is not known yet is added '
            "to tools/prose/verbs.py",
        )


def _around(text: str, found: re.Match[str]) -> str:
    start = max(text.rfind(" ", 0, max(0, found.start() - 12)) + 1, 0)
    end = text.find(" ", min(len(text), found.end() + 12))
    return " ".join(text[start : end if end >= 0 else len(text)].split())
