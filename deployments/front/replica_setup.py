"""Joins a front to the replicas and to the controller."""

import random
import uuid
from datetime import UTC, datetime

import structlog

from cluster.config import AppConfig
from cluster.errors import ConfigError
from cluster.placement.exchange import FrontId, FrontOrders
from cluster.placement.picking.picker import Picker
from cluster.placement.policy import ClusterPolicy
from cluster.placement.policy.policy_load import load_policy
from cluster.placement.policy.tiers import tier_weights
from cluster.placement.scaling.schedule import bounds_at
from cluster.tenancy.tenants import own_weights
from cluster.waiting.holding import Holding
from deployments.front.cluster_calls import ClusterCalls
from deployments.front.entry.live_tenants import LiveTenants
from deployments.front.replicas.replica_set import ReplicaSet
from deployments.front.requests.exchange import Exchange
from deployments.front.requests.front_demand import FrontDemand
from deployments.front.telemetry.metrics import FrontMetrics
from deployments.process import Process

log = structlog.get_logger(__name__)


def read_policy(config: AppConfig) -> ClusterPolicy:
    """Return the mounted file's policy, which rules until the controller has given orders.

    Where the file is broken the defaults do.
    """
    defaults = ClusterPolicy.fixed(config.replica.replicas)
    try:
        return load_policy(config.controller.policy_file, defaults)
    except ConfigError as error:
        log.warning("front.policy_file_refused", error=error.message)
        return defaults


def link_replicas(
    process: Process, calls: ClusterCalls, metrics: FrontMetrics, policy: ClusterPolicy
) -> ReplicaSet:
    """Return what finds the replicas and picks among them; it is not started."""
    return ReplicaSet(
        calls.discover,
        Picker(policy.picking, rng=random.Random()),
        process.secrets.signing_key,
        process.clock,
        interval_s=process.config.front.view_interval_s,
        on_pick=metrics.note_pick,
    )


def open_exchange(
    process: Process,
    calls: ClusterCalls,
    demand: FrontDemand,
    replicas: ReplicaSet,
    policy: ClusterPolicy,
    tenants: LiveTenants,
) -> tuple[Exchange, Holding]:
    """Return what talks to the controller for this front, and what holds requests meanwhile."""
    first = FrontOrders(
        acknowledged=0,
        epoch=0,
        picking=policy.picking,
        tiers=policy.tenants,
        weights=tier_weights(policy.tiers),
        hold_s=policy.replicas.hold,
        zero=bounds_at(policy.replicas, datetime.fromtimestamp(process.clock.wall(), UTC))[0] == 0,
    )
    front = FrontId(uuid.uuid4().hex)
    exchange = Exchange(
        front,
        calls.exchange,
        demand,
        process.clock,
        first=first,
        held=lambda: holding.count_wishes(),
        own_weights=lambda: own_weights(tenants.tenants),
    )
    holding = Holding(replicas, lambda: exchange.orders, exchange.now)
    replicas.on_lost = exchange.note_dead
    exchange.on_orders(replicas.follow_orders)
    return exchange, holding
