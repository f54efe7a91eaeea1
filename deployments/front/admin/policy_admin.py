"""The operator's policy as a front shows and changes it.

Texts are read and checked in a thread: one with thousands of tenants takes a while.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from cluster.adapters.registry.registry_view import RegistryView
from cluster.clock import Clock
from cluster.domain.ids import TenantId
from cluster.domain.replica import ReplicaSnapshot
from cluster.errors import PolicyConflict, PolicyError, PolicyNotFound
from cluster.placement.planning.plan import AdapterInfo
from cluster.placement.policy import ClusterPolicy
from cluster.placement.policy.advice import advice
from cluster.placement.policy.policy_load import PolicyReading, examine_policy, refusal
from cluster.placement.policy.policy_store import PolicyStore
from cluster.placement.policy.policy_versions import (
    CommitOutcome,
    PolicyDraft,
    PolicyState,
    PolicyVersion,
)
from cluster.placement.policy.present_cluster import (
    PresentCluster,
    advice_there,
    problems_there,
)
from cluster.placement.policy.problems import PolicyProblem
from cluster.placement.scaling.schedule import bounds_at
from cluster.tenancy.tenants import Tenant

SOURCE = "policy"
HISTORY_SHOWN = 200


class PolicyAdmin:
    """Reads and writes versions in the store; the controller puts them in force.

    Args:
        store: closed by its owner.
        defaults: entries that a policy does not have.
        present: returns what the cluster is now.
        controller_state: returns the controller's word, or ``error``.
        tick_s: between two looks of the controller.
    """

    def __init__(
        self,
        store: PolicyStore,
        defaults: ClusterPolicy,
        present: Callable[[], PresentCluster],
        controller_state: Callable[[], Awaitable[dict[str, Any]]],
        clock: Clock,
        tick_s: float,
    ) -> None:
        self._store = store
        self._defaults = defaults
        self._present = present
        self._controller_state = controller_state
        self._clock = clock
        self._tick_s = tick_s
        self._read: tuple[PolicyVersion, PolicyReading] | None = None  # that was shown last

    async def show(self) -> dict[str, Any]:
        """Return the version in force, all its fields, and who goes by which version.

        Raises:
            StoreUnavailable: Redis does not answer.
        """
        state = await self._store.read()
        controller = await self._controller_state()
        policy, unread = await self._in_force(state, controller.get("policy_version") or 0)
        low, high = bounds_at(policy.replicas, datetime.fromtimestamp(self._clock.wall(), UTC))
        override = None
        if state.override_left_s > 0.0:
            override = {"left_s": state.override_left_s, "falls_back_to": state.base}
        return {
            "object": "policy",
            **_card(state.version),
            "version": state.number,
            "text": "" if state.version is None else state.version.text,
            "managed_by": state.file or None,
            "override": override,
            "defaults": self._defaults.model_dump(mode="json", by_alias=True, exclude_unset=True),
            "effective": policy.model_dump(mode="json", by_alias=True),
            "replicas_now": {"min": low, "max": high},
            "following": {
                "controller": controller.get("policy_version"),
                "fronts": controller.get("policy_fronts", {}),
            },
            "error": controller.get("policy_error") or controller.get("error") or unread,
        }

    async def apply(
        self,
        text: str,
        message: str,
        author: TenantId,
        *,
        expected: int | None,
        override_s: float | None,
    ) -> dict[str, Any]:
        """Keep a text as the next version and put it in force.

        Raises:
            PolicyError: it is wrong, or this cluster cannot do it.
            PolicyConflict: a file manages the policy, or another version than ``expected`` rules.
            StoreUnavailable: Redis does not answer.
        """
        warnings = await asyncio.to_thread(self._checked, text, self._present())
        commit = await self._store.commit(
            PolicyDraft(text, author, message), override_s=override_s, expected=expected
        )
        if commit.outcome is CommitOutcome.CHANGED:
            raise PolicyConflict(
                f"version {commit.number} is in force, not {expected}; look at it and apply again"
            )
        if commit.outcome is CommitOutcome.MANAGED:
            state = await self._store.read()
            raise PolicyConflict(
                f"managed by {state.file}; change that file, or override it for a time"
            )
        if commit.outcome is CommitOutcome.UNMANAGED:
            raise PolicyConflict("no file manages the policy; apply it without an override")
        return {
            "object": "policy.applied",
            "version": commit.number,
            "changed": commit.outcome is CommitOutcome.KEPT,
            "warnings": [_described(warning) for warning in warnings],
        }

    async def history(self) -> list[dict[str, Any]]:
        """Return the kept versions without their texts, newest first.

        Raises:
            StoreUnavailable: Redis does not answer.
        """
        return [_card(version) for version in await self._store.history(HISTORY_SHOWN)]

    async def version(self, number: int) -> dict[str, Any]:
        """Return one version.

        Raises:
            PolicyNotFound: it is not kept.
            StoreUnavailable: Redis does not answer.
        """
        found = await self._store.version(number)
        if found is None:
            raise PolicyNotFound(f"there is no version {number} of the policy")
        return {"object": "policy.version", **_card(found), "text": found.text}

    async def _in_force(
        self, state: PolicyState, followed: int
    ) -> tuple[ClusterPolicy, str | None]:
        """Return the policy of a version, or else of the one ``followed``, and what is wrong."""
        if state.number == 0:
            return self._defaults, None
        problem = f"version {state.number} has no text in Redis; apply a policy again"
        if state.version is not None:
            reading = await self._reading(state.version)
            if reading.policy is not None:
                return reading.policy, None
            problem = refusal(reading.problems, f"policy version {state.number}")
        earlier = await self._store.version(followed)
        reading = PolicyReading(None) if earlier is None else await self._reading(earlier)
        return reading.policy or self._defaults, problem

    async def _reading(self, version: PolicyVersion) -> PolicyReading:
        if self._read is None or self._read[0] != version:
            content = version.text.encode()
            reading = await asyncio.to_thread(examine_policy, content, self._defaults)
            self._read = (version, reading)
        return self._read[1]

    def _checked(self, text: str, present: PresentCluster) -> list[PolicyProblem]:
        """Return the warnings.

        Raises:
            PolicyError: there are problems.
        """
        reading = examine_policy(text.encode(), self._defaults)
        problems = list(reading.problems)
        if reading.policy is not None:
            problems += problems_there(reading.policy, present)
        if problems or reading.policy is None:
            first = next((problem.path for problem in problems if problem.path), None)
            raise PolicyError(refusal(problems, SOURCE), param=first)
        return [*advice(reading.policy, self._tick_s), *advice_there(reading.policy, present)]


def present_cluster(
    view: RegistryView, tenants: Iterable[Tenant], replicas: tuple[ReplicaSnapshot, ...]
) -> PresentCluster:
    """Return what a policy is compared with; replicas are alike, so any may say its room."""
    return PresentCluster(
        tenants=frozenset(tenant.id for tenant in tenants),
        adapters=tuple(
            AdapterInfo(name.digest, name.alias, name.owner, view.of_name(name).manifest.nbytes)
            for name in view.names.values()
        ),
        slots=replicas[0].slots_total if replicas else None,
        adapter_bytes=replicas[0].adapter_bytes_limit if replicas else None,
        replicas=len(replicas),
    )


def _card(version: PolicyVersion | None) -> dict[str, Any]:
    """Return a version without its text; of none, nothing but the names."""
    if version is None:
        return dict.fromkeys(("sha256", "author", "message", "source", "at"))
    card = asdict(version)
    del card["text"]
    return {"version": card.pop("number"), **card}


def _described(problem: PolicyProblem) -> dict[str, Any]:
    return {"path": problem.path, "message": problem.words, "line": problem.line}
