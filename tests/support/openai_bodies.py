"""Bodies of requests, and what a stream's answer is made of."""

import json
from typing import Any

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
DONE = "[DONE]"


def chat(content: str = "hi", **fields: Any) -> dict[str, Any]:
    """Make a conversation of one message for the base; ``fields`` are of the body."""
    return {"model": "tiny", "messages": [{"role": "user", "content": content}], **fields}


def completion(prompt: Any = "hi", **fields: Any) -> dict[str, Any]:
    """Make a prompt for the base, with room for a short answer; ``fields`` are of the body."""
    return {"model": "tiny", "prompt": prompt, "max_tokens": 50, **fields}


def events(text: str) -> list[Any]:
    """Read the data of each event of a stream in order; JSON is read, anything else is as it is."""
    *blocks, rest = text.split("\n\n")
    assert rest == ""
    found: list[Any] = []
    for block in blocks:
        assert block.startswith("data: ")
        assert "\n" not in block
        data = block.removeprefix("data: ")
        found.append(data if data == DONE else json.loads(data))
    return found


def deltas(chunks: list[Any], index: int = 0) -> list[dict[str, Any]]:
    """Collect the deltas of one choice of a chat's stream."""
    return [
        choice["delta"]
        for chunk in chunks
        if chunk != DONE
        for choice in chunk["choices"]
        if choice["index"] == index
    ]


def text_of(chunks: list[Any], index: int = 0) -> str:
    """Join all text of one choice of a stream of either endpoint."""
    said = [
        choice["delta"].get("content", "") if "delta" in choice else choice["text"]
        for chunk in chunks
        if chunk != DONE
        for choice in chunk.get("choices", ())
        if choice["index"] == index
    ]
    return "".join(said)
