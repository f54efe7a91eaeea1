"""An operator's settings of a DLP router, and what they make of the artifact's."""

from typing import Annotated, Any, Literal

from pydantic import Field

from cluster.config import Section
from cluster.errors import ConfigError
from router_service.routers.selection import (
    Method,
    Probability,
    Renormalise,
    SelectionConfig,
    Share,
)
from router_service.routers.sentences import SentenceConfig
from router_service.routers.text_policy import MAX_HISTORY, TextPolicy

_SETTING: dict[Method, str] = {"nucleus": "top_p", "threshold": "threshold", "top_k": "top_k"}
_TEXT = ("prompt_characters", "answer_sentences", "history", "carry")


class DlpOptions(Section):
    """An operator's settings; each overrides the artifact's."""

    method: Method | None = None
    top_p: Probability | None = None
    threshold: Probability | None = None
    top_k: Annotated[int, Field(ge=1)] | None = None
    renormalise: Renormalise | None = None
    max_fan_out: Annotated[int, Field(ge=1)] | None = None
    """The smaller of this, the artifact's and ``adapters.max_mixture`` counts."""
    min_probability: Share | None = None
    """The base alone answers where no adapter is at least as likely as this."""
    margin: Share | None = None
    """The base alone answers unless an adapter is likelier than it by more than this."""
    dilute: bool | None = None
    """Whether the weight of a base that is kept beside adapters is taken from theirs."""
    prompt_characters: Annotated[int, Field(ge=1)] | None = None
    history: Annotated[int, Field(ge=0, le=MAX_HISTORY)] | None = None
    """User turns before the last one that a follow-up may go back to; 0: the last turn alone."""
    carry: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of an earlier turn's decision that a follow-up takes over."""
    reroute: Literal["never", "sentence"] = "never"
    """Whether adapters are chosen again at each sentence's end."""
    min_sentence_characters: Annotated[int, Field(ge=1)] | None = None
    """A shorter sentence of an answer is joined with the next one."""
    answer_sentences: Annotated[int, Field(ge=1)] | None = None
    """How many last sentences of the answer are read beside the prompt."""


def apply_options(
    name: str,
    options: DlpOptions,
    selection: SelectionConfig,
    text: TextPolicy,
    *,
    max_mixture: int | None,
    has_base: bool,
) -> tuple[SelectionConfig, TextPolicy]:
    """The artifact's settings with an operator's.

    Raises:
        ConfigError: an option has no effect beside the others: it goes with another method, or with
            a history, or with a base among the candidates.
    """
    changes: dict[str, Any] = options.model_dump(exclude_none=True, exclude={"reroute"})
    text = text.model_copy(update={k: changes.pop(k) for k in _TEXT if k in changes})
    if "min_sentence_characters" in changes:
        sentences = SentenceConfig(min_characters=changes.pop("min_sentence_characters"))
        text = text.model_copy(update={"sentences": sentences})
    limits = (changes.get("max_fan_out"), max_mixture, selection.max_fan_out)
    changes["max_fan_out"] = min((n for n in limits if n is not None), default=None)
    selection = selection.model_copy(update=changes)
    where = f"routers.{name}.options"
    for method, field in _SETTING.items():
        if field in changes and method != selection.method:
            raise ConfigError(
                f"{where}.{field}: goes with method {method}, and the method is {selection.method}"
            )
    if options.carry is not None and text.history == 0:
        raise ConfigError(f"{where}.carry: goes with a history above 0, and the history is 0")
    for field in ("margin", "dilute"):
        if getattr(options, field) and not has_base:
            raise ConfigError(
                f"{where}.{field}: compares with the base, which is not a candidate of this "
                "router; use min_probability or train it with texts of the base"
            )
    return selection, text
