"""Blends adapters with weights of the caller's own.

    python examples/mix.py sql=0.5 cron=0.5 "Every Monday at 6 list all customers from Rome"

BRAID_URL and BRAID_API_KEY are those of ask.py. A weight is any real number; the weights of a
mixture need not add up to 1.
"""

import os
import sys
from collections.abc import Mapping

from openai import OpenAI


def main(weights: Mapping[str, float], prompt: str) -> None:
    """Ask with an explicit mixture; the router is not asked."""
    url = os.environ.get("BRAID_URL", "http://127.0.0.1:8000")
    with OpenAI(base_url=f"{url}/v1", api_key=os.environ["BRAID_API_KEY"]) as client:
        raw = client.chat.completions.with_raw_response.create(
            model="auto",
            messages=[{"role": "user", "content": prompt}],
            temperature=0,
            max_tokens=64,
            extra_body={"adapters": [{"name": a, "weight": w} for a, w in weights.items()]},
        )
    print(raw.parse().choices[0].message.content)
    print("adapters:", raw.headers["x-braid-adapters"])


if __name__ == "__main__":
    *terms, text = sys.argv[1:] or ["sql=0.5", "cron=0.5", "Every Monday list all customers"]
    main({name: float(weight) for name, _, weight in (term.partition("=") for term in terms)}, text)
