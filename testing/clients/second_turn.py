"""A second turn, with the client's own message object, through several client libraries.

Each library is used where it is installed, and counted as skipped where it is not. Against a
running cluster:

    python -m testing.clients.second_turn --url http://127.0.0.1:8000 --key brd_...

For openai-node, ``--node DIR`` names a folder in which ``npm install openai zod`` was run.
"""

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

ASKED = [{"role": "user", "content": "Name a colour."}]
AGAIN = {"role": "user", "content": "Another one?"}
PERSON = {
    "title": "Person",
    "description": "Somebody.",
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
MAX_TOKENS = 48


@dataclass(frozen=True)
class Server:
    """Names a cluster and what is asked of it."""

    url: str
    key: str
    model: str

    @property
    def base_url(self) -> str:
        """As clients of OpenAI's API want it."""
        return f"{self.url}/v1"


def openai_python(server: Server) -> None:
    """Send back whole, streamed and parsed answers, unchanged."""
    import openai

    wish: dict[str, Any] = {"model": server.model, "temperature": 0, "max_tokens": MAX_TOKENS}
    with openai.OpenAI(base_url=server.base_url, api_key=server.key, max_retries=0) as client:
        completions: Any = client.chat.completions  # plain dicts are what people send
        message = completions.create(messages=ASKED, **wish).choices[0].message
        for sent in (message, message.model_dump(), message.to_dict()):
            second = completions.create(messages=[*ASKED, sent, AGAIN], **wish)
            assert second.choices[0].message.content
        # The helper takes an answer that was cut for an error.
        with completions.stream(
            messages=ASKED,
            stream_options={"include_usage": True},
            **{**wish, "max_tokens": 512},
        ) as stream:
            final = stream.get_final_completion()
        assert final.usage is not None
        assert final.usage.completion_tokens > 0
        sent = final.choices[0].message
        assert completions.create(messages=[*ASKED, sent, AGAIN], **wish).usage is not None
        shape = {
            "type": "json_schema",
            "json_schema": {"name": "person", "schema": PERSON, "strict": True},
        }
        formed = completions.create(messages=ASKED, response_format=shape, **wish)
        assert "age" in json.loads(formed.choices[0].message.content)


def langchain(server: Server) -> None:
    """Send back its message objects; check that streamed chunks add up, and that usage is there."""
    from langchain_core.messages import HumanMessage
    from langchain_openai import ChatOpenAI

    model = ChatOpenAI(
        base_url=server.base_url,
        api_key=server.key,
        model=server.model,
        temperature=0,
        max_tokens=MAX_TOKENS,
        stream_usage=True,
        max_retries=0,
    )
    first, again = HumanMessage(ASKED[0]["content"]), HumanMessage(AGAIN["content"])
    answer = model.invoke([first])
    assert model.invoke([first, answer, again]).content
    total: Any = None
    for chunk in model.stream([first]):
        total = chunk if total is None else total + chunk
    assert total.usage_metadata["output_tokens"] > 0
    assert model.invoke([first, total, again]).content
    assert "age" in model.with_structured_output(PERSON, method="json_schema").invoke([first])


def litellm(server: Server) -> None:
    """Send back its message object, with its own members."""
    from litellm import completion, stream_chunk_builder

    wish: dict[str, Any] = {
        "model": f"openai/{server.model}",
        "api_base": server.base_url,
        "api_key": server.key,
        "temperature": 0,
        "max_tokens": MAX_TOKENS,
        "num_retries": 0,
    }
    message = completion(messages=ASKED, **wish).choices[0].message
    for sent in (message, message.model_dump()):
        assert completion(messages=[*ASKED, sent, AGAIN], **wish).usage.total_tokens > 0
    chunks = list(
        completion(messages=ASKED, stream=True, stream_options={"include_usage": True}, **wish)
    )
    built = stream_chunk_builder(chunks, messages=ASKED)
    assert built.usage.completion_tokens > 0
    assert completion(messages=[*ASKED, built.choices[0].message, AGAIN], **wish).choices
    shape = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}}
    formed = completion(messages=ASKED, response_format=shape, **wish)
    assert "age" in json.loads(formed.choices[0].message.content)


def openai_node(server: Server, folder: Path) -> None:
    """Run the same checks in a script for Node."""
    script = Path(__file__).with_name("second_turn.mjs")
    copied = folder / script.name
    shutil.copy(script, copied)
    environment = {
        **os.environ,
        "BRAID_URL": server.base_url,
        "BRAID_KEY": server.key,
        "BRAID_MODEL": server.model,
    }
    subprocess.run(["node", copied.name], cwd=folder, env=environment, check=True, timeout=300)


CLIENTS: dict[str, Callable[[Server], None]] = {
    "openai": openai_python,
    "langchain_openai": langchain,
    "litellm": litellm,
}


def main() -> int:
    """Run all that are installed. Returns the number of clients that failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--key", required=True)
    parser.add_argument("--model", default="HuggingFaceTB/SmolLM2-135M-Instruct")
    parser.add_argument("--node", type=Path, help="folder with node_modules/openai")
    options = parser.parse_args()
    server = Server(options.url.rstrip("/"), options.key, options.model)
    runs: dict[str, Callable[[], None] | None] = {
        name: partial(run, server) if importlib.util.find_spec(name) else None
        for name, run in CLIENTS.items()
    }
    node: Path | None = options.node
    runs["openai-node"] = None if node is None else lambda: openai_node(server, node)
    failed = skipped = 0
    for name, run in runs.items():
        if run is None:
            skipped += 1
            print(f"{name}: skipped, not installed")
            continue
        try:
            run()
        except Exception as error:  # of any library; the others are tried all the same
            failed += 1
            print(f"{name}: failed: {type(error).__name__}: {str(error)[:400]}")
        else:
            print(f"{name}: works")
    print(f"{len(runs) - failed - skipped} work, {failed} failed, {skipped} skipped")
    return failed


if __name__ == "__main__":
    sys.exit(main())
