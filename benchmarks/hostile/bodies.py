"""Requests that cost a server more than their sender; each is made when it is asked for."""

import json
from collections.abc import Callable
from typing import Any

CHAT, COMPLETIONS, ROUTE = "/v1/chat/completions", "/v1/completions", "/v1/route"
Case = Callable[[str], tuple[str, bytes]]  # the base model's name -> path, body


def _chat(**fields: Any) -> Case:
    messages = [{"role": "user", "content": "x"}]
    return lambda model: (CHAT, _json({"model": model, "messages": messages, **fields}))


def _completion(prompt: Any, **fields: Any) -> Case:
    return lambda model: (
        COMPLETIONS,
        _json({"model": model, "prompt": prompt, "max_tokens": 1, **fields}),
    )


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def _raw(path: str, start: str, item: str, count: int, end: str, joint: str = ",") -> Case:
    """Make a body that has ``item`` ``count`` times; ``%`` in ``start`` is the model."""
    return lambda model: (
        path,
        (start.replace("%", model) + joint.join([item] * count) + end).encode(),
    )


def _keys(path: str, start: str, count: int, end: str) -> Case:
    return lambda model: (
        path,
        (start.replace("%", model) + ",".join(f'"a{n}":1' for n in range(count)) + end).encode(),
    )


def _ring(rules: int) -> str:
    rows = (f'r{n}: "k{n}" r{(n + 1) % rules}?' for n in range(rules))
    return "start: " + " | ".join(f"r{n}" for n in range(rules)) + "\n" + "\n".join(rows)


PROMPT = '{"model":"%","max_tokens":1,"prompt":['
MESSAGES = '{"model":"%","messages":['
OPEN = '{"model":"%","messages":[{"role":"user","content":"x"}],'
EMPTY = '{"role":"user","content":""}'

BODIES: dict[str, Case] = {
    "800 sequences": _completion([[1]] * 50, n=16),
    "16,000 sequences": _completion([[1]] * 1000, n=16),
    "160,000 sequences": _completion([[1]] * 10000, n=16),
    "128 sequences": _completion([[1]] * 8, n=16),
    "128 long prompts": _completion([[1] * 2000] * 128),
    "1.3 M wrong items": _raw(COMPLETIONS, PROMPT, "{}", 1_300_000, "]}"),
    "30,000 wrong items": _raw(COMPLETIONS, PROMPT, "{}", 30_000, "]}"),
    "2 M token ids": _raw(COMPLETIONS, PROMPT, "1", 1_900_000, "]}"),
    "260,000 token ids": _raw(COMPLETIONS, PROMPT, "1", 260_000, "]}"),
    "260,000 ids and an object": _raw(COMPLETIONS, PROMPT, "1", 260_000, ",{}]}"),
    "128 x 2,000 ids out of range": _completion([[10**8] * 2000] * 128),
    "negative ids": _raw(COMPLETIONS, PROMPT, "-1", 260_000, "]}"),
    "fractions for ids": _raw(COMPLETIONS, PROMPT, "1.5", 260_000, "]}"),
    "2 M messages of numbers": _raw(CHAT, MESSAGES, "1", 1_900_000, "]}"),
    "120,000 empty messages": _raw(CHAT, MESSAGES, EMPTY, 120_000, "]}"),
    "2,048 empty messages": _raw(CHAT, MESSAGES, EMPTY, 2048, "]}"),
    "2,048 messages of 1,000 characters": _raw(
        CHAT, MESSAGES, json.dumps({"role": "user", "content": "ab " * 333}), 2048, "]}"
    ),
    "30,000 parts in a message": _raw(
        CHAT,
        MESSAGES + '{"role":"user","content":[',
        '{"type":"text","text":""}',
        30_000,
        "]}]}",
    ),
    "340,000 unknown fields": _keys(CHAT, OPEN, 340_000, "}"),
    "16,000 unknown fields": _keys(CHAT, OPEN, 16_000, "}"),
    "one unknown field of 3 MB": _raw(CHAT, OPEN + '"', "k" * 3_000_000, 1, '":1}'),
    "16,000 biases": _keys(CHAT, OPEN + '"logit_bias":{', 16_000, "}}"),
    "200,000 stop strings": _raw(CHAT, OPEN + '"stop":[', '"a"', 200_000, "]}"),
    "stop of 3 MB": _chat(stop="s" * 3_000_000),
    "200,000 stop tokens": _raw(CHAT, OPEN + '"stop_token_ids":[', "-1", 200_000, "]}"),
    "model name of 3 MB": _completion("a", model="m" * 3_000_000),
    "user of 3 MB": _chat(user="u" * 3_000_000),
    "2 M brackets": _raw(COMPLETIONS, '{"model":"%","prompt":', "[" * 2_000_000, 1, ""),
    "150 brackets deep": _raw(COMPLETIONS, '{"model":"%","prompt":', "[" * 150, 1, "]" * 150),
    "a number of 3 MB": _raw(CHAT, OPEN + '"n":', "9" * 3_000_000, 1, "}"),
    "a fraction of 3 MB": _raw(CHAT, OPEN + '"top_p":0.', "1" * 3_000_000, 1, "}"),
    "zeros": lambda _: (CHAT, b"\0" * 4_000_000),
    "blanks": lambda _: (CHAT, b" " * 4_000_000),
    "not UTF-8": lambda _: (CHAT, b'{"model":"\xff' * 300_000),
    "half surrogates": _raw(COMPLETIONS, '{"model":"%","prompt":"', "\\ud800", 500_000, '"}', ""),
    "4 MB of text": _completion("word " * 800_000),
    "4 MB of one letter": _completion("a" * 4_000_000),
    "4 MB of blanks": _completion(" " * 4_000_000),
    "500 KB of blanks": _completion(" " * 500_000),
    "4 MB of commas": _completion("," * 4_000_000),
    "4 MB of escaped quotes": _completion('"' * 2_000_000),
    "3 MB of Chinese": _completion("語" * 1_000_000),
    "3 MB of emoji": _completion("🦜" * 750_000),
    "600 KB of combining marks": _completion("a" + "\u0301" * 300_000),
    "128 texts of 30 KB": _completion(["word " * 6000] * 128),
    "route of 4 MB": _raw(ROUTE, '{"prompt":"', "word ", 750_000, '"}', ""),
    "routes": lambda _: (ROUTE, b'{"prompt":"a"}'),
    "echo with log-probabilities": _completion(["ab " * 400] * 16, echo=True, logprobs=20, n=8),
    "nested repetition": _chat(guided_regex="((a{1,100}){1,100}){1,100}", max_tokens=16),
    "regex of 200 KB": _chat(guided_regex="a" * 200_000, max_tokens=16),
    "regex of 5,000 words": _chat(guided_regex="|".join(f"w{n}[a-z]{{9}}" for n in range(5000))),
    "grammar of a long ring": _chat(guided_grammar=_ring(6000)),
    "grammar of 2,000 options": _chat(
        guided_grammar="start: " + "a? " * 2000 + '\na: "x" | "y" a', max_tokens=16
    ),
    "ambiguous grammar": _chat(guided_grammar='start: s\ns: s s | "a" | "" | s s s', max_tokens=64),
    "schema of 3,000 patterns": _chat(
        guided_json={
            "type": "object",
            "properties": {
                f"k{n}": {"type": "string", "pattern": f"^[a-z]{{1,{n % 90 + 1}}}$"}
                for n in range(3000)
            },
        }
    ),
}
