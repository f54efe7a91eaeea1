"""Random requests of every kind, the same ones for the same seed."""

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.domain.request import Outcome

WORDS = [
    "river",
    "stone",
    "lamp",
    "window",
    "garden",
    "paper",
    "engine",
    "cloud",
    "market",
    "winter",
    "bread",
    "letter",
    "signal",
    "bridge",
    "copper",
    "forest",
    "planet",
    "mirror",
    "ticket",
    "harbor",
    "button",
    "ladder",
    "orange",
    "pencil",
    "rocket",
    "silver",
    "thunder",
]
QUESTIONS = (
    "List every product that costs more than {n} and was sold in {w}",
    "Run the backup of {w} every {n} minutes on weekdays",
    "Find all files larger than {n} megabytes below the folder {w}",
    "The printer in room {n} shows an error about {w} since this morning",
    "Sam has {n} apples and gives half of them to {w}. How many are left?",
    "Meet {w} on the {n}th of March at noon",
    "Order {n} boxes of {w} for Anna, to be delivered on Friday",
)
SAMPLINGS: tuple[dict[str, Any], ...] = (
    {"temperature": 0},
    {"temperature": 0, "repetition_penalty": 1.2},
    {"temperature": 0.8, "top_p": 0.9},
    {"temperature": 1.0, "top_k": 20, "min_p": 0.05},
    {"temperature": 0.7, "presence_penalty": 0.5, "frequency_penalty": 0.5},
    {"temperature": 0, "min_tokens": 3, "logit_bias": {"198": -5}},
)
SERVED = frozenset({Outcome.COMPLETED, Outcome.EVICTED_DEADLINE, Outcome.REJECTED_CAPACITY})
"""Outcomes of a good request on a busy machine. Capacity is a polite "later"."""
WRONG_KEY = "braid-wrong-key"


@dataclass(frozen=True, slots=True)
class Planned:
    """One request and when it is sent."""

    number: int
    gap: float  # seconds after the one before
    kind: str
    tenant: str  # or empty: a key without an owner
    path: str
    body: bytes
    stream: bool
    leave_after: float | None
    allowed: frozenset[Outcome]


@dataclass(frozen=True)
class Mix:
    """Shares of the traffic: weights of the kinds, and chances of what may be added to them."""

    kinds: Mapping[str, float]
    stream: float = 0.6
    chat: float = 0.35
    leave: float = 0.12
    preamble: float = 0.35
    several: float = 0.08
    stop: float = 0.1
    logprobs: float = 0.08
    guided: float = 0.03
    echo: float = 0.06
    prompts: float = 0.03


DEFAULT_MIX = Mix(
    kinds={"base": 14, "adapter": 40, "mixture": 16, "auto": 20, "long": 2, "bad": 8},
)


class Traffic:
    """An endless stream of requests.

    Args:
        rng: the only source of randomness.
        model: the base model's name.
        rights: by tenant, the aliases it may use.
        rate: mean arrivals per second.
    """

    def __init__(
        self,
        rng: random.Random,
        model: str,
        rights: Mapping[str, Sequence[str]],
        rate: float,
        mix: Mix = DEFAULT_MIX,
    ) -> None:
        self._rng = rng
        self._model = model
        self._rights = rights
        self._rate = rate
        self._mix = mix
        self._preambles = [self._words(100) for _ in range(2)]

    def __iter__(self) -> Iterator[Planned]:
        number = 0
        while True:
            yield self._plan(number)
            number += 1

    def _plan(self, number: int) -> Planned:
        rng, mix = self._rng, self._mix
        gap = rng.expovariate(self._rate)
        (kind,) = rng.choices(list(mix.kinds), weights=list(mix.kinds.values()))
        tenant = rng.choice(sorted(self._rights))
        if kind == "bad":
            return self._bad(number, gap, tenant)
        body: dict[str, Any] = {
            "model": self._model,
            "max_tokens": rng.randint(3, 40),
            **rng.choice(SAMPLINGS),
        }
        self._choose(kind, tenant, body)
        chat = kind != "long" and self._chance(mix.chat)
        self._ask(kind, chat, body)
        self._add_options(kind, chat, body)
        leave = None
        if self._chance(mix.leave):
            leave = rng.choice((0.0, rng.uniform(0, 0.3), rng.expovariate(0.5)))
        return Planned(
            number=number,
            gap=gap,
            kind=kind,
            tenant=tenant,
            path="/v1/chat/completions" if chat else "/v1/completions",
            body=json.dumps(body).encode(),
            stream=bool(body.get("stream")),
            leave_after=leave,
            allowed=SERVED if leave is None else SERVED | {Outcome.CANCELLED},
        )

    def _choose(self, kind: str, tenant: str, body: dict[str, Any]) -> None:
        """Choose the adapters that answer."""
        rng, aliases = self._rng, self._rights[tenant]
        if kind == "adapter":
            # Some adapters are asked for often and most of them now and then.
            body["model"] = aliases[int(len(aliases) * rng.random() ** 2)]
        elif kind == "mixture":
            names = rng.sample(aliases, rng.randint(2, min(4, len(aliases))))
            body["adapters"] = [
                {"name": name, "weight": round(rng.uniform(-0.5, 1.0), 2)} for name in names
            ]
        elif kind == "auto":
            body["model"] = "auto"

    def _ask(self, kind: str, chat: bool, body: dict[str, Any]) -> None:
        rng = self._rng
        text = rng.choice(QUESTIONS).format(n=rng.randint(2, 60), w=rng.choice(WORDS))
        preamble = rng.choice(self._preambles) if self._chance(self._mix.preamble) else ""
        if kind == "long":
            body |= {"prompt": self._words(60), "max_tokens": 700, "ignore_eos": True}
        elif chat:
            system = [{"role": "system", "content": preamble}] if preamble else []
            body["messages"] = [*system, {"role": "user", "content": text}]
        elif kind != "auto" and self._chance(self._mix.prompts):
            body["prompt"] = [f"{preamble} {text}", text]
        else:
            body["prompt"] = f"{preamble} {text}".strip()

    def _add_options(self, kind: str, chat: bool, body: dict[str, Any]) -> None:
        rng, mix = self._rng, self._mix
        if self._chance(mix.stream):
            body["stream"] = True
            if self._chance(0.5):
                body["stream_options"] = {"include_usage": True}
        if kind == "long":
            return
        if self._chance(mix.several):
            body |= {"n": rng.randint(2, 3), "temperature": 0.9}
        if self._chance(mix.stop):
            body["stop"] = rng.choice((["."], ["\n", " the"], "a"))
        if self._chance(mix.logprobs):
            body |= {"logprobs": True, "top_logprobs": 3} if chat else {"logprobs": 3}
        if not chat and self._chance(mix.echo):
            body["echo"] = True
            if "logprobs" in body and "min_tokens" not in body:
                body["max_tokens"] = rng.choice((0, 5))
        if self._chance(mix.guided) and "min_tokens" not in body:
            body["guided_regex"] = rng.choice(("(yes|no)", "[a-z]{1,8}", "[0-9]{2}:[0-9]{2}"))

    def _bad(self, number: int, gap: float, tenant: str) -> Planned:
        """Make requests that must be refused, each for its own reason."""
        rng = self._rng
        good = {"model": self._model, "prompt": "hello", "max_tokens": 4}
        foreign = sorted(
            {name for names in self._rights.values() for name in names} - set(self._rights[tenant])
        )
        choices: list[dict[str, Any] | bytes] = [
            {**good, "temperature": 9},
            {**good, "unheard_of": 1},
            {**good, "prompt": ""},
            {**good, "model": "no-such-model"},
            {**good, "prompt": self._words(4000)},
            {**good, "guided_regex": "("},
            {"model": self._model},
            b'{"model": ',
            good,
        ]
        if foreign:
            choices.append({**good, "model": rng.choice(foreign)})
        body = rng.choice(choices)
        stranger = body is good
        return Planned(
            number=number,
            gap=gap,
            kind="stranger" if stranger else "bad",
            tenant="" if stranger else tenant,
            path="/v1/completions",
            body=body if isinstance(body, bytes) else json.dumps(body).encode(),
            stream=False,
            leave_after=None,
            allowed=frozenset({Outcome.REJECTED_AUTH if stranger else Outcome.REJECTED_INVALID}),
        )

    def _words(self, count: int) -> str:
        return " ".join(self._rng.choices(WORDS, k=count))

    def _chance(self, probability: float) -> bool:
        return self._rng.random() < probability
