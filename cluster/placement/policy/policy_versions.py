"""Describes the versions of a policy as they are kept, and which of them is in force."""

from dataclasses import dataclass
from enum import StrEnum

FILE, APPLIED = "file", "applied"
"""Sources of a version: a mounted file, or an operator's command."""

SHORTEST_OVERRIDE_S, LONGEST_OVERRIDE_S = 1.0, 7 * 86_400.0
"""Seconds for which a version may replace that of a file."""


@dataclass(frozen=True, slots=True)
class PolicyDraft:
    """A text that is to become the next version."""

    text: str
    author: str
    message: str
    source: str = APPLIED


@dataclass(frozen=True, slots=True)
class PolicyVersion:
    """A version. It never changes."""

    number: int  # from 1
    text: str
    sha256: str
    author: str
    message: str
    source: str
    at: float  # wall clock of the server that keeps it, in seconds


@dataclass(frozen=True, slots=True)
class PolicyState:
    """The version in force, and why it is."""

    number: int  # in force; 0: none was ever kept
    base: int  # in force where no override is
    file: str  # that manages the policy; empty: none
    override_left_s: float  # 0: no override
    newest: int
    version: PolicyVersion | None  # None: the caller has it, or there is none


class CommitOutcome(StrEnum):
    """Tells what became of a draft."""

    KEPT = "kept"
    SAME = "same"  # its text is in force already
    CHANGED = "changed"  # another version is in force than the caller expected
    MANAGED = "managed"  # a file manages the policy
    UNMANAGED = "unmanaged"  # there is no file to override


@dataclass(frozen=True, slots=True)
class Commit:
    """The answer to a draft."""

    outcome: CommitOutcome
    number: int
