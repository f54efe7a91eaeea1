"""Builds one front from its process: step by step, each part from those before it.

Parts are registered for closing in their order, so the HTTP server ends first.
"""

import asyncio
import uuid
from dataclasses import asdict
from typing import Any

import structlog
from ray.serve.handle import DeploymentHandle

from cluster.adapters.format.chat_template import digest_of
from cluster.domain.ids import RequestId
from cluster.errors import ConfigError
from cluster.placement.policy import ClusterPolicy
from cluster.placement.policy.policy_store import PolicyStore
from cluster.redis_client import redis_client
from cluster.tenancy.followed_tenants import FollowedTenants
from cluster.tenancy.metering import Meter
from cluster.tenancy.shares import weight_of
from cluster.tenancy.tenants import TenantDirectory
from deployments.adapter_follower import REDIS_TIMEOUT_S
from deployments.directory import TenantAdapters
from deployments.front.admin.adapter_admin import AdapterAdmin
from deployments.front.admin.admin_context import AdminContext
from deployments.front.admin.broadcast import ReplicaBroadcast
from deployments.front.admin.policy_admin import PolicyAdmin, present_cluster
from deployments.front.admin.router_admin import RouterAdmin
from deployments.front.cluster_calls import ClusterCalls
from deployments.front.entry.door import Door
from deployments.front.entry.heavy import HeavyWork
from deployments.front.entry.live_tenants import LiveTenants
from deployments.front.front_context import FrontContext
from deployments.front.http.key_headers import authorization_of
from deployments.front.replica_setup import link_replicas, open_exchange, read_policy
from deployments.front.replicas.replica_set import ReplicaSet
from deployments.front.requests.admission import Admission
from deployments.front.requests.front_demand import FrontDemand
from deployments.front.requests.names import ModelNames
from deployments.front.requests.request_service import RequestService
from deployments.front.requests.trace_notes import TraceNotes, open_trace_log
from deployments.front.routing_setup import follow_routers, open_routing
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
from deployments.process import Process
from kernels import __version__
from router_service.service import RoutingService

log = structlog.get_logger(__name__)


def new_request_id() -> RequestId:
    """Return a fresh id; also the engine's id of a sequence."""
    return RequestId(uuid.uuid4().hex)


async def build_front(
    process: Process, calls: ClusterCalls, handle: DeploymentHandle[Any]
) -> FrontContext:
    """Start every part of a front but its HTTP server, and return what the routes share.

    Args:
        process: this front's.
        calls: asks the other actors.
        handle: of the replica deployment.

    Raises:
        ConfigError: the tenants file or a configured router is wrong.
    """
    config, clock = process.config.front, process.clock
    codec = await _read_tokenizer(process)
    admission = _open_quota(process)
    work = HeavyWork()
    process.on_close_sync(work.close)
    tenants = await _follow_tenants(process)
    directory = TenantAdapters(lambda: process.adapters.view, tenants)
    routing, breaker_state = open_routing(process, directory)
    routers = await follow_routers(process, routing)
    metrics = FrontMetrics()
    policy = read_policy(process.config)
    replicas = link_replicas(process, calls, metrics, policy)
    demand = FrontDemand(clock)
    exchange, holding = open_exchange(process, calls, demand, replicas, policy, tenants)
    broadcast = ReplicaBroadcast(handle, holding.wait_for_replica)
    meter = _count(process, metrics, replicas, routing, tenants)
    door = Door(
        authenticate=lambda request: tenants.authenticate(authorization_of(request.headers)),
        admission=admission,
        work=work,
        config=config,
        clock=clock,
    )
    names = ModelNames(process.base.model_id)
    service = RequestService(
        names=names,
        sync=routers.sync,
        routing=routing,
        replicas=replicas,
        codec=codec,
        prompts=PromptReader(codec, work),
        grammars=_check_grammars(process),
        admission=admission,
        meter=meter,
        metrics=metrics,
        config=config,
        max_model_len=process.config.engine.max_model_len,
        clock=clock,
        new_id=new_request_id,
        templates=AdapterTemplates(process.adapters, directory),
        traces=_open_trace_log(process, metrics),
        wait_for_replica=holding.wait_for_replica,
        demand=demand,
        weight=lambda tenant: weight_of(
            tenants.weight(tenant), exchange.orders.tier_weight(tenant)
        ),
        promised_itl=lambda tenant: exchange.orders.promised_itl(tenant),
    )
    admin = AdminContext(
        door=door,
        app_config=process.config,
        adapters=process.adapters,
        adapter_admin=_adapter_admin(process, broadcast, codec),
        router_admin=RouterAdmin(
            adapters=process.adapters,
            routers=routers,
            config=process.config,
            base=process.base,
            replicas=broadcast,
            clock=clock,
        ),
        policies=_open_policies(process, calls, tenants, replicas),
        tenants=tenants,
        replicas=replicas,
        identity=lambda: {
            "version": __version__,
            "model": names.model_id,
            "routers": list(routing.router_names),
        },
        decision_store=lambda: {"breaker": breaker_state(), **asdict(routing.store.counters)},
        controller_state=calls.controller_state,
        check_integrity=lambda: calls.check_integrity(
            [snapshot.replica_id for snapshot in replicas.snapshots()]
        ),
    )
    replicas.start()
    process.on_close(replicas.close)
    exchange.start()
    process.on_close(exchange.close)
    tenants.start()
    process.on_close(tenants.close)
    return FrontContext(
        version=__version__,
        started_at=int(clock.wall()),
        config=config,
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


async def _read_tokenizer(process: Process) -> TextCodec:
    return await asyncio.to_thread(
        TextCodec,
        process.base.path,
        special_tokens_in_text=process.config.front.special_tokens_in_text,
    )


def _open_quota(process: Process) -> Admission:
    admission = Admission.build(process.config, process.secrets, process.clock)
    process.on_close(admission.close)
    return admission


async def _follow_tenants(process: Process) -> LiveTenants:
    """Read the tenants file; log which rights have no effect yet, now and after each change."""

    def check_rights(tenants: TenantDirectory) -> None:
        try:
            tenants.check_rights(process.adapters.view.entries().keys())
        except ConfigError as error:  # not fatal: the adapters may be added later
            log.warning("front.rights_unknown", reason=error.message)

    config = process.config
    assert config.tenants_file is not None  # checked when the application was built
    file = await asyncio.to_thread(FollowedTenants, config.tenants_file)
    check_rights(file.directory)
    return LiveTenants(file, process.clock, config.front.tenants_interval_s, check_rights)


def _open_trace_log(process: Process, metrics: FrontMetrics) -> TraceNotes:
    trace_log = open_trace_log(process.config, process.secrets.signing_key, process.clock, metrics)
    if trace_log is not None:
        process.on_close(lambda: asyncio.to_thread(trace_log.close))
    return TraceNotes(trace_log)


def _count(
    process: Process,
    metrics: FrontMetrics,
    replicas: ReplicaSet,
    routing: RoutingService,
    tenants: LiveTenants,
) -> Meter:
    """Complete this front's metrics with figures that live elsewhere; return the tenants' meter."""
    meter = Meter()
    process.adapters.on_change(lambda view: meter.fold(view.versions))
    metrics.add_collector(MeterCollector(meter))
    metrics.add_collector(ReplicaCollector(replicas))
    metrics.add_collector(RoutingCollector(routing))
    metrics.tenants_refused.set_function(lambda: tenants.state.error is not None)
    return meter


def _open_policies(
    process: Process, calls: ClusterCalls, tenants: LiveTenants, replicas: ReplicaSet
) -> PolicyAdmin:
    client = redis_client(process.secrets.redis_url, timeout_s=REDIS_TIMEOUT_S, name="braid-policy")
    store = PolicyStore(client)
    process.on_close(store.close)
    return PolicyAdmin(
        store,
        ClusterPolicy.fixed(process.config.replica.replicas),
        lambda: present_cluster(process.adapters.view, tenants.tenants, replicas.snapshots()),
        calls.controller_state,
        process.clock,
        process.config.controller.interval_s,
    )


def _check_grammars(process: Process) -> GrammarChecker:
    trial = GrammarTrial(process.base.path)
    process.on_close_sync(trial.close)
    return GrammarChecker(trial)


def _adapter_admin(process: Process, broadcast: ReplicaBroadcast, codec: TextCodec) -> AdapterAdmin:
    template = codec.chat_template
    return AdapterAdmin(
        adapters=process.adapters,
        config=process.config.adapters,
        hub_token=process.secrets.hub_token,
        replicas=broadcast,
        clock=process.clock,
        base_dir=process.base.path,
        base_template=template and digest_of(template),
    )
