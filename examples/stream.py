"""Prints an answer token by token, as it is decoded.

    python examples/stream.py "List every file larger than 10 MB"

BRAID_URL and BRAID_API_KEY are those of ask.py.
"""

import os
import sys

from openai import OpenAI


def main(prompt: str = "List every file larger than 10 MB") -> None:
    """Stream with usage: the last chunk counts the tokens."""
    url = os.environ.get("BRAID_URL", "http://127.0.0.1:8000")
    with (
        OpenAI(base_url=f"{url}/v1", api_key=os.environ["BRAID_API_KEY"]) as client,
        client.chat.completions.create(
            model="auto",
            messages=[{"role": "user", "content": prompt}],
            temperature=0,
            max_tokens=64,
            stream=True,
            stream_options={"include_usage": True},
        ) as chunks,
    ):
        for chunk in chunks:
            for choice in chunk.choices:
                print(choice.delta.content or "", end="", flush=True)
            if chunk.usage is not None:
                print(f"\n{chunk.usage.completion_tokens} tokens")


if __name__ == "__main__":
    main(*sys.argv[1:])
