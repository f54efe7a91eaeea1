"""Puts a front together: as its deployment does it, without Serve and Redis.

Tests of a whole front know nothing of this. Whatever moves in the front, this file alone follows.
"""

import itertools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from fastapi import FastAPI
from fastapi.routing import APIRoute

from cluster.adapters.format.chat_template import digest_of
from cluster.adapters.registry.memory_store import MemoryRegistryStore
from cluster.adapters.registry.registry import AdapterRegistry
from cluster.base_model.source import ModelLocation
from cluster.config import AppConfig, FrontConfig
from cluster.domain.ids import RequestId
from cluster.domain.model_names import base_names
from cluster.placement.picking.picker import Picker
from cluster.placement.policy import ClusterPolicy
from cluster.placement.policy.policy_store import PolicyStore
from cluster.redis_client import redis_client
from cluster.tenancy.followed_tenants import FollowedTenants
from cluster.tenancy.metering import Meter
from cluster.tenancy.quota import MemoryQuota
from cluster.tenancy.shares import weight_of
from cluster.waiting.holding import Holding
from deployments.adapter_follower import AdapterFollower
from deployments.directory import TenantAdapters
from deployments.front.admin.adapter_admin import AdapterAdmin
from deployments.front.admin.admin_context import AdminContext
from deployments.front.admin.broadcast import ReplicaBroadcast
from deployments.front.admin.front_routers import FrontRouters
from deployments.front.admin.policy_admin import PolicyAdmin, present_cluster
from deployments.front.admin.router_admin import RouterAdmin
from deployments.front.entry.door import Door
from deployments.front.entry.heavy import HeavyWork
from deployments.front.entry.live_tenants import LiveTenants
from deployments.front.front_context import FrontContext
from deployments.front.http.http_server import HttpServer
from deployments.front.http.key_headers import authorization_of
from deployments.front.http_app import build_http_app
from deployments.front.replicas.replica_set import ReplicaSet
from deployments.front.requests.admission import Admission
from deployments.front.requests.names import ModelNames
from deployments.front.requests.request_service import RequestService
from deployments.front.requests.trace_notes import TraceNotes, open_trace_log
from deployments.front.telemetry.collectors import (
    MeterCollector,
    ReplicaCollector,
    RoutingCollector,
)
from deployments.front.telemetry.metrics import FrontMetrics
from deployments.front.text.adapter_templates import AdapterTemplates
from deployments.front.text.grammar_trial import GrammarTrial
from deployments.front.text.grammars import GrammarChecker
from deployments.front.text.prompts import PromptReader
from deployments.front.text.text_stream import TextCodec
from deployments.local.valkey import free_port
from deployments.process import scan_adapters
from deployments.router_build import BuiltRouters
from router_service.decision_store.codec import DecisionCodec
from router_service.decision_store.memory import MemoryDecisionStore
from router_service.service import RoutingService
from tests.support.byte_base import MODEL_ID
from tests.support.scripted_cluster import ScriptedCluster
from tests.support.word_routers import SentenceWords, WordRouter

SIGNING_KEY = b"0123456789abcdef"
STARTED_AT = 1_900_000_000
NOBODY = "redis://127.0.0.1:1/0"


class SharedParts:
    """Holds what is slow to make and may serve any number of fronts, one after the other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.codec = TextCodec(folder / "base")
        self.trial = GrammarTrial(folder / "base")

    def close(self) -> None:
        """End the helper process of the grammars."""
        self.trial.close()


async def build_app(
    cluster: ScriptedCluster,
    shared: SharedParts,
    tenants_file: Path,
    store: Path,
    given: dict[str, Any],
    stack: AsyncExitStack,
) -> FastAPI:
    """Build the application of one front, whose parts are closed by ``stack``.

    Args:
        cluster: what the front asks.
        shared: what fronts may share.
        tenants_file: who may call.
        store: folder of the adapters and routers that are added.
        given: fields of ``AppConfig``.
        stack: closes what is opened here.
    """
    config = AppConfig.model_validate(_config(shared.folder, store, tenants_file, given))
    return build_http_app(await _context(cluster, shared, config, stack))


@asynccontextmanager
async def serve(app: FastAPI) -> AsyncIterator[str]:
    """Serve ``app`` on a real server and give its URL."""
    config = FrontConfig(port=free_port())
    server = HttpServer(app, config, drain_s=1)
    await server.start()
    try:
        yield f"http://127.0.0.1:{config.port}"
    finally:
        await server.stop()


def routes_in(routes: Any) -> list[APIRoute]:
    """Collect every route of an application's ``routes``, those of its routers included."""
    found: list[APIRoute] = []
    for route in routes:
        if isinstance(route, APIRoute):
            found.append(route)
        elif hasattr(route, "original_router"):
            found += routes_in(route.original_router.routes)
    return found


async def _context(
    cluster: ScriptedCluster, shared: SharedParts, config: AppConfig, stack: AsyncExitStack
) -> FrontContext:
    clock, codec = cluster.clock, shared.codec
    assert config.tenants_file is not None
    location = ModelLocation(shared.folder / "base", MODEL_ID, "digest")
    catalog = scan_adapters(config, MODEL_ID)
    epochs = (f"epoch-{number}" for number in itertools.count())
    registry = AdapterRegistry(
        MemoryRegistryStore(lambda: next(epochs)), clock, reserved=base_names(MODEL_ID)
    )
    live = AdapterFollower(registry, catalog, config, clock)
    await live.start()
    stack.push_async_callback(live.close)
    file = FollowedTenants(config.tenants_file)
    tenants = LiveTenants(file, clock, config.front.tenants_interval_s, lambda _: None)
    tenants.start()
    stack.push_async_callback(tenants.close)
    directory = TenantAdapters(lambda: live.view, tenants)
    decisions = DecisionCodec(SIGNING_KEY)
    routing = RoutingService(
        routers={},
        store=MemoryDecisionStore(decisions, clock),
        directory=directory,
        codec=decisions,
        clock=clock,
        config=config.decisions,
        max_mixture=config.adapters.max_mixture,
    )
    stack.push_async_callback(routing.close)

    def use(built: BuiltRouters) -> None:
        words = {"words": WordRouter("words"), "sentences": SentenceWords("sentences")}
        routing.use({**words, **built.routers}, built.bound, built.broken)

    routers = FrontRouters(live, config, location, use)
    await routers.start()
    stack.push_async_callback(routers.close)
    picking = ClusterPolicy.fixed(config.replica.replicas).picking
    metrics = FrontMetrics()
    replicas = ReplicaSet(
        cluster.discover,
        Picker(picking),
        SIGNING_KEY,
        clock,
        interval_s=config.front.view_interval_s,
        on_pick=metrics.note_pick,
    )
    replicas.start()
    stack.push_async_callback(replicas.close)
    holding = Holding(replicas, lambda: cluster.orders, cluster.call_controller)
    cluster.on_orders = replicas.follow_orders
    meter = Meter()
    live.on_change(lambda view: meter.fold(view.versions))
    for collector in (MeterCollector(meter), ReplicaCollector(replicas), RoutingCollector(routing)):
        metrics.add_collector(collector)
    metrics.tenants_refused.set_function(lambda: tenants.state.error is not None)
    admission = Admission(MemoryQuota(clock, config.front.request_timeout_s + 60))
    stack.push_async_callback(admission.close)
    work = HeavyWork()
    stack.callback(work.close)
    trace_log = open_trace_log(config, SIGNING_KEY, clock, metrics)
    if trace_log is not None:
        stack.callback(trace_log.close)
    names = ModelNames(MODEL_ID)
    ids = map(str, itertools.count())

    def new_id() -> RequestId:
        return RequestId(f"sequence-{next(ids)}")

    service = RequestService(
        names=names,
        sync=routers.sync,
        routing=routing,
        replicas=replicas,
        codec=codec,
        prompts=PromptReader(codec, work),
        grammars=GrammarChecker(shared.trial),
        admission=admission,
        meter=meter,
        metrics=metrics,
        config=config.front,
        max_model_len=config.engine.max_model_len,
        clock=clock,
        new_id=new_id,
        templates=AdapterTemplates(live, directory),
        traces=TraceNotes(trace_log),
        wait_for_replica=holding.wait_for_replica,
        weight=lambda tenant: weight_of(tenants.weight(tenant), cluster.orders.tier_weight(tenant)),
    )
    door = Door(
        authenticate=lambda request: tenants.authenticate(authorization_of(request.headers)),
        admission=admission,
        work=work,
        config=config.front,
        clock=clock,
    )
    url = config.redis_url.get_secret_value() if config.redis_url else NOBODY
    policy_store = PolicyStore(redis_client(url, timeout_s=1.0, name="policies"))
    stack.push_async_callback(policy_store.close)
    policies = PolicyAdmin(
        policy_store,
        ClusterPolicy.fixed(config.replica.replicas),
        lambda: present_cluster(live.view, tenants.tenants, replicas.snapshots()),
        cluster.controller_state,
        clock,
        config.controller.interval_s,
    )
    admin = AdminContext(
        door=door,
        app_config=config,
        adapters=live,
        adapter_admin=AdapterAdmin(
            adapters=live,
            config=config.adapters,
            replicas=cast("ReplicaBroadcast", cluster),
            clock=clock,
            base_dir=location.path,
            base_template=codec.chat_template and digest_of(codec.chat_template),
        ),
        router_admin=RouterAdmin(
            adapters=live,
            routers=routers,
            config=config,
            base=location,
            replicas=cast("ReplicaBroadcast", cluster),
            clock=clock,
        ),
        policies=policies,
        tenants=tenants,
        replicas=replicas,
        identity=lambda: {
            "version": "1.2.3",
            "model": names.model_id,
            "routers": list(routing.router_names),
        },
        decision_store=lambda: {"breaker": "closed", **asdict(routing.store.counters)},
        controller_state=cluster.controller_state,
        check_integrity=cluster.check_integrity,
    )
    return FrontContext(
        version="1.2.3",
        started_at=STARTED_AT,
        config=config.front,
        names=names,
        directory=directory,
        service=service,
        door=door,
        replicas=replicas,
        holding=holding,
        metrics=metrics,
        clock=clock,
        admin=admin,
    )


def _config(made: Path, store: Path, tenants_file: Path, given: dict[str, Any]) -> dict[str, Any]:
    adapters = {
        "store_dir": store,
        "source_dir": made / "sources",
        "slots": 4,
        "max_mixture": 3,
        **given.get("adapters", {}),
    }
    front = {"view_interval_s": 0.02, "tenants_interval_s": 0.05, **given.get("front", {})}
    return {
        "model": MODEL_ID,
        "adapters_dir": made / "adapters",
        "tenants_file": tenants_file,
        "routers": [{"name": "fixed", "path": str(made / "fixed")}],
        **given,
        "adapters": adapters,
        "front": front,
    }
