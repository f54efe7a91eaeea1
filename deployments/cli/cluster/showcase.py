"""End of ``braid up``: real answers, and what to try next."""

import json
import shlex
from collections.abc import Mapping, Sequence

from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from cluster.domain.model_names import AUTO
from cluster.tenancy.quickstart import ADMIN_TENANT
from deployments.cli.toolkit import console
from deployments.cli.toolkit.client import BraidClient, ServerTarget

MAX_TOKENS = 64
LABEL_WIDTH = 7
ANY_PROMPT = "What is the capital of France?"
PROMPT_BY_SKILL = {
    "sql": "Show the average price of all products per category.",
    "dates": "The contract ends on the 3rd of March, 2027.",
    "json": "Make a JSON record: Zoe Novak (34) works in Kyoto as a teacher.",
    "cron": "Please run the backup every 15 minutes.",
    "shell": "Make the script build.sh executable.",
    "tickets": "The app freezes after the update. Please help, it is urgent.",
    "equations": "There are 13 tickets and Maria takes 8. What is left?",
}


def show_rights(rights: Mapping[str, Sequence[str]]) -> None:
    """Print the rights of the tenants that `braid up` made."""
    for tenant, aliases in rights.items():
        words = ", ".join(aliases) or "the base model"
        console.out.print(Text(f"  {tenant:<8}", style="bold") + Text(words))
    console.out.print(Text(f"  {ADMIN_TENANT:<8}", style="bold") + Text("everything"))


def show_answers(
    url: str, keys: Mapping[str, str], rights: Mapping[str, Sequence[str]], model: str
) -> None:
    """Ask once for each tenant and print prompt, mixture, source and answer.

    Args:
        model: what to ask for; "auto" if there is a router.

    Raises:
        BraidError: a request failed.
    """
    shown: list[str] = []
    for tenant, aliases in rights.items():
        name = model if model == AUTO or not aliases else aliases[0]
        shown.append(prompt_for(aliases, shown))
        show_answer(ServerTarget(url, keys[tenant]), tenant, shown[-1], name)


def prompt_for(aliases: Sequence[str], shown: Sequence[str] = ()) -> str:
    """Choose a prompt that suits one of the demo's adapters among these, a new one if possible."""
    known = [PROMPT_BY_SKILL[alias] for alias in aliases if alias in PROMPT_BY_SKILL]
    fresh = [prompt for prompt in known if prompt not in shown]
    return next(iter(fresh or known), ANY_PROMPT)


def show_answer(target: ServerTarget, tenant: str, prompt: str, model: str) -> None:
    """Ask once, greedily, and print the answer with its decision."""
    with BraidClient(target) as client, console.spinner(f"{tenant} asks"):
        answer = client.chat(request_body(prompt, model))
        decision = client.decision(answer.decision_id)
    text = answer.body["choices"][0]["message"]["content"].strip()
    console.out.print()
    console.out.print(Text(tenant, style="bold magenta") + Text(f"  model {model}", style="dim"))
    _labelled("prompt", Text(prompt))
    _labelled("source", Text(answer.source))
    if decision is not None:
        _labelled("mixture", console.mixture_table(decision["mixture"]))
    _labelled("answer", Text(text, style="green"))


def _labelled(label: str, content: RenderableType) -> None:
    row = Table.grid(padding=(0, 2, 0, 0))
    row.add_column(width=LABEL_WIDTH, style="dim")
    row.add_column()
    row.add_row(label, content)
    console.out.print(Padding(row, (0, 0, 0, 2), expand=False))


def request_body(prompt: str, model: str) -> dict[str, object]:
    """Make the body of a greedy chat request."""
    return {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": MAX_TOKENS,
        "temperature": 0,
    }


def show_next(url: str, key: str, prompt: str, model: str) -> None:
    """Print the curl line and the Python lines to try next, ready to be copied."""
    body = json.dumps(request_body(prompt, model))
    console.out.print("\n[bold]Try it[/bold]")
    console.plain(
        f"curl -s {url}/v1/chat/completions -H {shlex.quote(f'Authorization: Bearer {key}')} "
        f"-H 'Content-Type: application/json' -d {shlex.quote(body)}"
    )
    console.out.print("\n[bold]or in Python[/bold]")
    for line in python_lines(url, key, prompt, model):
        console.plain(line)


def python_lines(url: str, key: str, prompt: str, model: str) -> list[str]:
    """Write the same request with the openai client."""
    return [
        "from openai import OpenAI",
        f'client = OpenAI(base_url="{url}/v1", api_key="{key}")',
        f'messages = [{{"role": "user", "content": {json.dumps(prompt)}}}]',
        f'answer = client.chat.completions.create(model="{model}", messages=messages)',
        "print(answer.choices[0].message.content)",
    ]
