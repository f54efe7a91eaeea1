"""Records to evaluate on: prompts with the wanted answer, as JSON lines."""

from dataclasses import dataclass
from pathlib import Path

from cluster.errors import TrainingDataError
from training.jsonl import parse_object

_REQUIRED = ("prompt", "completion")
_OPTIONAL = ("answer", "choices")


@dataclass(frozen=True, slots=True)
class Record:
    """One line."""

    prompt: str
    completion: str  # the text wanted
    answer: str | float | None = None  # what the completion comes to: a word, or a number
    choices: tuple[str, ...] = ()  # completions to choose from; empty: the file's


def read_eval_records(path: Path) -> list[Record]:
    """Read every line of ``{"prompt", "completion", "answer"?, "choices"?}``; empty lines are
    skipped.

    Raises:
        TrainingDataError: unreadable or empty, or a line that is wrong; names file, line, field.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise TrainingDataError(f"{path}: cannot be read: {error}") from error
    records = [_parse(f"{path}:{n}", line) for n, line in enumerate(lines, 1) if line.strip()]
    if not records:
        raise TrainingDataError(f"{path}: has no examples")
    return records


def _parse(where: str, line: str) -> Record:
    found = parse_object(where, line)
    for field in _REQUIRED:
        if field not in found:
            raise TrainingDataError(f"{where}:{field}: missing")
        if not isinstance(found[field], str) or not found[field].strip():
            raise TrainingDataError(f"{where}:{field}: must be a string that is not blank")
    for field in found:
        if field not in _REQUIRED + _OPTIONAL:
            raise TrainingDataError(f"{where}:{field}: unknown field")
    answer = found.get("answer")
    if isinstance(answer, bool) or not isinstance(answer, str | int | float | None):
        raise TrainingDataError(f"{where}:answer: must be a string or a number")
    choices = found.get("choices", [])
    if not isinstance(choices, list) or not all(isinstance(c, str) and c for c in choices):
        raise TrainingDataError(f"{where}:choices: must be a list of strings")
    if choices and (found["completion"] not in choices or len(set(choices)) != len(choices)):
        raise TrainingDataError(f"{where}:choices: each once, the completion among them")
    return Record(found["prompt"], found["completion"], answer, tuple(choices))
