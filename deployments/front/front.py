"""The front: Serve's ingress deployment. Authenticates, routes, picks, relays."""

import asyncio
import uuid
from collections.abc import Iterable
from typing import Any

import structlog
from ray import serve
from ray.serve.handle import DeploymentHandle

from cluster.adapters.format.chat_template import digest_of
from cluster.clock import SystemClock
from cluster.config import AppConfig
from cluster.domain.ids import RequestId
from cluster.domain.replica import ReplicaSnapshot
from cluster.errors import ConfigError, ReplicaLost
from cluster.placement.picking.picker import Picker
from cluster.placement.policy import ClusterPolicy
from cluster.placement.policy_load import PolicyFile
from cluster.tenancy.followed_tenants import FollowedTenants
from cluster.tenancy.metering import Meter
from cluster.tenancy.tenants import TenantDirectory
from deployments.directory import TenantAdapters
from deployments.front.admin.adapter_admin import AdapterAdmin
from deployments.front.admin.broadcast import BroadcastCluster
from deployments.front.admin.front_routers import FrontRouters
from deployments.front.admin.router_admin import RouterAdmin
from deployments.front.entry.door import Door
from deployments.front.entry.heavy import HeavyWork
from deployments.front.entry.live_tenants import LiveTenants
from deployments.front.front_context import FrontContext
from deployments.front.http.http_server import HttpServer
from deployments.front.http.key_headers import authorization_of
from deployments.front.openai.http_app import build_http_app
from deployments.front.openai.structured import GrammarChecker
from deployments.front.requests.admission import Admission
from deployments.front.requests.names import ModelNames
from deployments.front.requests.replicas import ReplicaSet
from deployments.front.requests.request_service import RequestService
from deployments.front.telemetry.collectors import (
    MeterCollector,
    ReplicaCollector,
    RoutingCollector,
)
from deployments.front.telemetry.metrics import FrontMetrics
from deployments.front.text.adapter_templates import AdapterTemplates
from deployments.front.text.grammar_trial import GrammarTrial
from deployments.front.text.prompts import PromptReader
from deployments.front.text.text_stream import TextCodec
from deployments.live_adapters import LiveAdapters
from deployments.log_setup import configure_logging
from deployments.ray_compat import bind_serve_to_loopback
from deployments.replica_calls import ask_replicas, integrity_answer
from deployments.serve_env import SERVE_LOGGING
from deployments.wiring import decision_store, locate_model, read_secrets, scan_adapters
from kernels import __version__
from router_service.service import RoutingService

log = structlog.get_logger(__name__)

CALL_TIMEOUT_S = 2.0
INTEGRITY_TIMEOUT_S = 10.0
"""A busy replica is asked whether its books balance, not how quick it is."""
DRAIN_S = 25.0


def new_request_id() -> RequestId:
    """A fresh id; also the engine's id of a sequence."""
    return RequestId(uuid.uuid4().hex)


class Front:
    """See the module.

    Args:
        args: an ``AppConfig`` in JSON form.
        replicas: handle of the replica deployment.
        controller: handle of the controller.
    """

    async def __init__(  # type: ignore[misc] # Serve awaits constructors
        self,
        args: dict[str, Any],
        replicas: DeploymentHandle[Any],
        controller: DeploymentHandle[Any],
    ) -> None:
        configure_logging("front", hears_text=True)
        bind_serve_to_loopback()
        config = AppConfig.model_validate(args)
        secrets = read_secrets(config)
        clock = SystemClock()
        self._replica_handle = replicas
        self._controller = controller
        location = await asyncio.to_thread(locate_model, config)
        catalog = await asyncio.to_thread(scan_adapters, config, location.model_id)
        assert config.tenants_file is not None  # checked when the application was built
        tenants_file = await asyncio.to_thread(FollowedTenants, config.tenants_file)
        self._live = LiveAdapters.build(config, secrets, clock, location.model_id, catalog)
        await self._live.start()
        self._tenants = LiveTenants(
            tenants_file, clock, config.front.tenants_interval_s, self._check_rights
        )
        self._check_rights(tenants_file.directory)
        directory = TenantAdapters(lambda: self._live.view, self._tenants)
        store, codec = decision_store(config, secrets, clock)
        routing = RoutingService(
            routers={},
            store=store,
            directory=directory,
            codec=codec,
            clock=clock,
            config=config.decisions,
            max_mixture=config.adapters.max_mixture,
        )
        self._routers = FrontRouters(
            self._live,
            config,
            location,
            lambda built: routing.use(built.routers, built.bound, built.broken),
        )
        await self._routers.start()
        defaults = ClusterPolicy.fixed(config.replica.replicas)
        policy = PolicyFile(config.controller.policy_file, defaults).policy
        self._set = ReplicaSet(
            self._discover,
            Picker(policy.picking),
            secrets.signing_key,
            clock,
            interval_s=config.front.view_interval_s,
        )
        meter = Meter()
        self._live.on_change(lambda view: meter.fold(view.versions))
        metrics = FrontMetrics()
        metrics.add_collector(MeterCollector(meter))
        metrics.add_collector(ReplicaCollector(self._set))
        metrics.add_collector(RoutingCollector(routing))
        metrics.tenants_refused.set_function(lambda: self._tenants.state.error is not None)
        names = ModelNames(location.model_id)
        text_codec = await asyncio.to_thread(
            TextCodec,
            location.path,
            special_tokens_in_text=config.front.special_tokens_in_text,
        )
        template = text_codec.chat_template
        cluster = BroadcastCluster(replicas)
        self._admission = Admission.build(config, secrets, clock)
        self._work = HeavyWork()
        self._trial = GrammarTrial(location.path)
        self._context = FrontContext(
            version=__version__,
            started_at=int(clock.wall()),
            app_config=config,
            config=config.front,
            names=names,
            tenants=self._tenants,
            live=self._live,
            adapter_admin=AdapterAdmin(
                live=self._live,
                config=config.adapters,
                hub_token=secrets.hub_token,
                cluster=cluster,
                clock=clock,
                base_dir=location.path,
                base_template=template and digest_of(template),
            ),
            router_admin=RouterAdmin(
                live=self._live,
                routers=self._routers,
                config=config,
                base=location,
                cluster=cluster,
                clock=clock,
            ),
            directory=directory,
            admission=self._admission,
            service=RequestService(
                names=names,
                catch_up=self._routers.catch_up,
                routing=routing,
                replicas=self._set,
                codec=text_codec,
                prompts=PromptReader(text_codec, self._work),
                grammars=GrammarChecker(self._trial),
                admission=self._admission,
                meter=meter,
                metrics=metrics,
                config=config.front,
                max_model_len=config.engine.max_model_len,
                clock=clock,
                new_id=new_request_id,
                templates=AdapterTemplates(self._live, directory),
            ),
            door=Door(
                authenticate=lambda request: self._tenants.authenticate(
                    authorization_of(request.headers)
                ),
                admission=self._admission,
                work=self._work,
                config=config.front,
                clock=clock,
            ),
            replicas=self._set,
            metrics=metrics,
            clock=clock,
            new_id=new_request_id,
            controller_state=self._controller_state,
            breaker_state=lambda: store.breaker_state.value,
            check_integrity=self._check_integrity,
        )
        self._routing = routing
        self._set.start()
        self._tenants.start()
        for problem in catalog.problems:
            log.warning("front.adapter_refused", alias=problem.alias, reason=problem.message)
        self._http = HttpServer(build_http_app(self._context), config.front, drain_s=DRAIN_S)
        await self._http.start()
        log.info("front.ready", host=config.front.host, port=config.front.port)

    def _check_rights(self, tenants: TenantDirectory) -> None:
        """Say which rights have no effect yet: the adapters may be added later."""
        try:
            tenants.check_rights(self._live.view.entries().keys())
        except ConfigError as error:
            log.warning("front.rights_unknown", reason=error.message)

    async def check_health(self) -> None:
        """Serve replaces a front that no longer takes connections."""
        if not self._http.serving:
            raise RuntimeError("the HTTP server has ended")

    async def _discover(self) -> Iterable[ReplicaSnapshot]:
        found = await ask_replicas(self._replica_handle, "describe", timeout_s=CALL_TIMEOUT_S)
        return [item for item in found if isinstance(item, ReplicaSnapshot)]

    async def _check_integrity(self) -> dict[str, Any]:
        known = [snapshot.replica_id for snapshot in self._set.snapshots()]
        try:
            found = await ask_replicas(
                self._replica_handle, "check_integrity", timeout_s=INTEGRITY_TIMEOUT_S
            )
        except ReplicaLost as error:
            found = [error]
        return integrity_answer(found, known)

    async def _controller_state(self) -> dict[str, Any]:
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                state: dict[str, Any] = await self._controller.state.remote()
                return state
        except Exception as error:  # Ray raises many kinds; the placement stays as it is meanwhile
            return {"error": f"the controller does not answer: {type(error).__name__}"}

    async def __del__(self) -> None:
        if hasattr(self, "_http"):
            await self._http.stop()
            await self._tenants.close()
            await self._set.close()
            await self._routing.close()
            await self._routers.close()
            await self._live.close()
            await self._admission.close()
            self._work.close()
            self._trial.close()


def front_deployment(config: AppConfig) -> serve.Deployment:
    """The deployment with its options."""
    return serve.deployment(
        name="Front",
        logging_config=dict(SERVE_LOGGING),
        num_replicas=config.front.replicas,
        health_check_period_s=2.0,
        graceful_shutdown_timeout_s=DRAIN_S + 5.0,
        ray_actor_options={"num_cpus": 0, "resources": dict(config.front.resources)},
    )(Front)
