"""An adapter's own chat template is used where that adapter alone is asked, and nowhere else."""

import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from cluster.adapters.catalog import AdapterCatalog
from cluster.adapters.format.chat_template import digest_of
from cluster.adapters.registry.memory_store import MemoryRegistryStore
from cluster.adapters.registry.registry import AdapterRegistry
from cluster.config import AppConfig, DecisionConfig
from cluster.domain.ids import TenantId
from cluster.errors import AdapterLoadFailed
from cluster.tenancy.tenants import Tenant
from deployments.adapter_follower import AdapterFollower
from deployments.directory import TenantAdapters
from deployments.front.requests.names import ModelNames
from deployments.front.text.adapter_templates import MAX_KEPT, AdapterTemplates, ChosenTemplate
from deployments.front.text.chat_template import TemplateOptions
from deployments.front.text.text_stream import TextCodec
from router_service.decision_store.codec import DecisionCodec
from router_service.decision_store.memory import MemoryDecisionStore
from router_service.routing_request import MixtureTerm
from router_service.service import RoutingService
from tests.support.manual_clock import ManualClock
from tests.support.small_cluster import make_base

ACME = Tenant(TenantId("acme"), frozenset({"*"}))
OWN = "{% for m in messages %}### {{ m['role'] }}: {{ m['content'] }}\n{% endfor %}### assistant:"
NAMES = ModelNames("org/base")


def write(folder: Path, value: float, template: str | None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    stem = "base_model.model.model.layers.0.self_attn.q_proj"
    tensors = {
        f"{stem}.lora_A.weight": torch.full((2, 8), value),
        f"{stem}.lora_B.weight": torch.full((8, 2), value),
    }
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(
        '{"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj"]}'
    )
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)


class Bench:
    def __init__(self, folder: Path) -> None:
        write(folder / "own", 1.0, OWN)
        write(folder / "plain", 2.0, None)
        clock, epochs = ManualClock(), itertools.count()
        self.folder = folder
        self.registry = AdapterRegistry(MemoryRegistryStore(lambda: f"e{next(epochs)}"), clock)
        config = AppConfig.model_validate({"adapters_dir": folder})
        self.adapters = AdapterFollower(self.registry, AdapterCatalog.scan(folder), config, clock)
        tenants = SimpleNamespace(tenant=lambda _: ACME)
        self.directory = TenantAdapters(lambda: self.adapters.view, tenants)  # type: ignore[arg-type]
        self.templates = AdapterTemplates(self.adapters, self.directory)
        codec = DecisionCodec(b"0123456789abcdef")
        self.routing = RoutingService(
            routers={},
            store=MemoryDecisionStore(codec, clock),
            directory=self.directory,
            codec=codec,
            clock=clock,
            config=DecisionConfig(),
            max_mixture=4,
        )

    async def choose(self, model: str, *terms: str) -> ChosenTemplate:
        adapters = [MixtureTerm(name, 1.0) for name in terms] or None
        return await self.templates.choose(ACME.id, NAMES.routing_request(model, adapters))


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(tmp_path)
    await made.adapters.start()
    yield made
    await made.adapters.close()


async def test_it_is_the_adapter_s_where_it_is_asked_alone(bench: Bench) -> None:
    assert (await bench.choose("own")).text == OWN
    assert (await bench.choose("base:own")).text == OWN
    for model, *terms in (("plain",), ("base",), ("auto",), ("base", "own"), ("auto:x",)):
        assert (await bench.choose(model, *terms)).text is None


async def test_a_decision_for_another_version_is_noticed(bench: Bench) -> None:
    decided = await bench.routing.decide(ACME.id, NAMES.routing_request("own", None), "hello")
    assert (await bench.choose("own")).is_for(decided)
    assert not (await bench.choose("plain")).is_for(decided)
    assert not (await bench.choose("nobody")).is_for(decided)
    assert (await bench.choose("base")).is_for(decided)
    digest = decided.decision.mixture[0].key.digest
    assert (await bench.templates.of_adapter(digest)).text == OWN


async def test_a_file_that_has_changed_is_not_used(bench: Bench) -> None:
    (bench.folder / "own" / "chat_template.jinja").write_text("other")
    with pytest.raises(AdapterLoadFailed, match="chat template has changed"):
        await bench.choose("own")


async def test_few_are_kept(bench: Bench) -> None:
    await bench.choose("own")
    bench.templates._kept.update({f"{i}": "x" for i in range(2 * MAX_KEPT)})
    assert (await bench.choose("own")).text == OWN
    assert len(bench.templates._kept) == MAX_KEPT
    assert bench.templates._kept[digest_of(OWN)] == OWN


def test_messages_are_written_with_the_template_that_is_given(tmp_path: Path) -> None:
    codec = TextCodec(make_base(tmp_path))
    tokens = codec.encode_chat([{"role": "user", "content": "hi"}], TemplateOptions(source=OWN))
    assert codec.prompt_text(tokens) == "### user: hi\n### assistant:"
    assert codec.chat_template is None
