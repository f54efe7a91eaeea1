"""Asks one question, and prints the answer with the adapters that gave it.

    python examples/ask.py "Show the average price of all products per category."

BRAID_URL names the server (default: the cluster of `braid up`), BRAID_API_KEY a tenant's key
(`braid tenants list --keys` prints the demo's).
"""

import os
import sys

from openai import OpenAI

DEFAULT_PROMPT = "Show the average price of all products per category."


def main(prompt: str = DEFAULT_PROMPT) -> None:
    """Ask with the model "auto": the router chooses the adapters."""
    url = os.environ.get("BRAID_URL", "http://127.0.0.1:8000")
    with OpenAI(base_url=f"{url}/v1", api_key=os.environ["BRAID_API_KEY"]) as client:
        raw = client.chat.completions.with_raw_response.create(
            model="auto",
            messages=[{"role": "user", "content": prompt}],
            temperature=0,
            max_tokens=64,
        )
    print(raw.parse().choices[0].message.content)
    print("adapters:", raw.headers.get("x-braid-adapters", "") or "none, the base alone")


if __name__ == "__main__":
    main(*sys.argv[1:])
