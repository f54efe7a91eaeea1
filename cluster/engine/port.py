"""The port of an engine: all that serving and training know of it.

An engine generates tokens for requests, with the adapters in its slots. `Engine` takes requests and
hands chunks back, `AdapterSlots` takes adapters in and out, and a factory answers both as a
`BuiltEngine`. No other module may reach into an engine, so that another one (in another process, on
other hardware) can stand behind the same port; `tests/cluster/engine/conformance` is what each of
them must pass, and docs/decisions/0009 says why the line is drawn here.

Data alone crosses it, but for what cannot be data:

- ``OnChunks`` and ``OnReturned``, given to the factory: the engine calls its owner once per step.
- ``Mixing.complete``, of requests that name a router: a namespace is a function of what the router
  decides, which is known in the middle of a step. Requests without a router have none.
- Gates and routers (`cluster.engine.mixing.MixingParts`), given to the factory: they compute inside
  the model's forward pass. An engine that cannot run them refuses requests that name one.
- `LoadableAdapter`: what an engine read into host memory, opaque to its caller.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from cluster.adapters.validation.base_shapes import BaseShapes
from cluster.domain.adapter import AdapterManifest, BaseCheck
from cluster.domain.ids import AdapterDigest, RequestId, Slot, TenantId
from cluster.domain.request import GenerationChunk, GenerationRequest, Usage
from cluster.engine.engine_counters import EngineStats
from cluster.engine.mixing import Mixing
from cluster.engine.spans import Span

OnChunks = Callable[[list[GenerationChunk]], None]
"""Receives the chunks of one step, in order, from one thread of the engine; must return at once."""

OnReturned = Callable[[RequestId, tuple[int, ...], Usage], None]
"""Receives a request that is handed back, with all tokens of its completion and its usage, after
its chunks and from the same thread. It gets no last chunk: its owner submits it again."""


class Engine(Protocol):
    """Generates tokens for many requests at once. Its methods may be called from any thread.

    From ``submit`` on, a request's chunks come through ``OnChunks``, in order. The last one has
    ``finish_reason`` and ``usage``, and comes exactly once whatever happens: completion,
    cancellation, deadline, a failed step, ``stop``. Only ``withdraw`` and ``OnReturned`` end a
    request without it. Until then the engine may read the adapters in the request's slots.
    """

    @property
    def max_model_len(self) -> int:
        """Longest prompt plus completion, in tokens."""
        ...

    def start(self) -> None:
        """Begin to serve. Raises EngineError if it was started before."""
        ...

    def submit(
        self,
        request: GenerationRequest,
        namespace: str,
        adapters: tuple[tuple[Slot, float], ...],
        mixing: Mixing | None = None,
        spans: Sequence[Span] = (),
        *,
        before: Usage | None = None,
    ) -> None:
        """Take a request; its chunks come through ``OnChunks``.

        Args:
            request: what to generate.
            namespace: its KV namespace (docs/decisions/0001).
            adapters: (slot, weight) of its mixture, in mixture order; the slots must stay loaded
                until the last chunk has come. With a gate, in the gate's order.
            mixing: how they are weighed beyond that. What a router decides comes in a chunk of its
                own or with the first token, before any later one.
            spans: what follows the first one: in the prompt from where adapters are activated,
                and in the completion of a request that was re-routed before. Every token is
                computed with the adapters of the span it lies in.
            before: its usage when it was handed back, if it was: it is counted once, with what it
                began with.

        Raises:
            RequestError: no prompt tokens, a request id that is being served already, or a
                grammar that cannot be followed.
            PromptTooLong: no room for prompt and completion.
            Overloaded: the queue is full.
            ReplicaLost: the engine is stopping.
            EngineError: a slot is empty, ``mixing`` does not fit, or a weight or the sampling
                parameters have no meaning.
        """
        ...

    def compile_grammar(self, request: GenerationRequest) -> None:
        """Compile a request's grammar ahead of ``submit``, which then takes little time.

        Raises:
            RequestError: it cannot be followed.
        """
        ...

    def cancel(self, request_id: RequestId) -> bool:
        """End a request before the next step, and free its KV. False if it is not live."""
        ...

    def withdraw(self, request_id: RequestId) -> bool:
        """Take a request back that has not begun: no chunk of it comes, and it reads no adapters.

        False if it has begun, was cancelled, or is not live. One that has begun is handed back
        through ``OnReturned`` once it has to wait, unless it ends before.
        """
        ...

    def reroute(
        self,
        request_id: RequestId,
        namespace: str,
        adapters: tuple[tuple[Slot, float], ...],
        *,
        after: int,
    ) -> int | None:
        """Continue a request with other adapters once its completion has ``after`` tokens, or as
        soon as possible. Keys and values computed before stay.

        The chunk with the first token computed with them has ``span_start``. The slots must stay
        loaded until the last chunk has come or ``release_before`` frees them. A second change may
        only be asked for once the first has begun.

        Returns:
            Tokens of the completion that come before; None if the request is not live.

        Raises:
            EngineError: a slot is empty, a weight is not finite, or the request cannot be
                re-routed.
        """
        ...

    def release_before(self, request_id: RequestId, start: int) -> bool:
        """Release the adapters that a request used before the span at ``start``, as its chunk named
        it.

        Returns False, releasing nothing, while they are still needed. A request that would need
        them again afterwards is handed back through ``OnReturned``.
        """
        ...

    def stats(self) -> EngineStats:
        """Return the numbers of this moment."""
        ...

    def backlog(self) -> Mapping[TenantId, int]:
        """Return the tokens of prompts that are still to be computed, by tenant; none has 0."""
        ...

    def stalled_for(self) -> float:
        """Return the seconds since the engine last showed life; 0 while it has nothing to do.

        Infinite if it was never started or has ended. One that loses its device ends by itself: its
        requests end with the error code of a lost replica, and its process must end too.
        """
        ...

    def stop(self, *, drain: bool, timeout_s: float | None = None) -> bool:
        """Refuse new requests and end.

        With ``drain`` live requests are completed first; else they end with the error code of a
        lost replica, so that another one can continue them. Returns False if the engine was still
        busy after ``timeout_s``.
        """
        ...

    def check_integrity(self) -> None:
        """Check the engine's books of requests and KV.

        Raises:
            IntegrityError: with both numbers.
        """
        ...


class LoadableAdapter(Protocol):
    """An adapter in host memory, in the form its engine loads from."""

    @property
    def manifest(self) -> AdapterManifest:
        """Facts of its files."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes in host memory, as ``required_nbytes`` foretold."""
        ...


class AdapterSlots(Protocol):
    """Takes adapters in and out of an engine.

    ``read_adapter``, ``place`` and ``clear`` may run in any thread while requests use other slots.
    The caller sees to it that no request uses the slot itself: leases do that.
    """

    def required_nbytes(self, ranks: Mapping[str, int]) -> int:
        """Return the bytes that an adapter with these ranks (module path -> rank) will take.

        Raises:
            ValueError: the base has no such module.
        """
        ...

    def read_adapter(
        self,
        folder: Path,
        base: BaseShapes,
        *,
        digest: AdapterDigest | None = None,
        base_check: BaseCheck | None = None,
        links_below: Path | None = None,
    ) -> LoadableAdapter:
        """Read an adapter's files, check them, and keep them in host memory for ``place``.

        Args:
            folder: has PEFT's files.
            base: what they must fit.
            digest: of the version that was asked for; None: any.
            base_check: in place of the configuration's, for this adapter.
            links_below: links in the folder may lead below this one; None: nowhere.

        Raises:
            AdapterError: malformed, too large, for another base, or not finite.
            AdapterLoadFailed: the files are not the version's any more.
        """
        ...

    def place(self, slot: int, adapter: LoadableAdapter) -> None:
        """Load what ``read_adapter`` returned into a slot, replacing what the slot held.

        Raises:
            ValueError: the slot is out of range.
        """
        ...

    def clear(self, slot: int) -> None:
        """Empty a slot; an empty one stays empty. Raises ValueError if it is out of range."""
        ...

    def nbytes(self, slot: int) -> int:
        """Return the device bytes of a slot's content; 0 if it is empty."""
        ...

    def check_integrity(self) -> None:
        """Check the books of the slots.

        Raises:
            IntegrityError: with both numbers.
        """
        ...


@dataclass(frozen=True)
class BuiltEngine:
    """An engine that is not running yet, and what its adapters must fit."""

    engine: Engine
    adapters: AdapterSlots
    module_shapes: dict[str, tuple[int, int]]  # module path -> (d_out, d_in)
    vocab_size: int
    device: str  # what it computes on, for people and for profiles of its costs
    gates: bool = field(default=True, kw_only=True)  # it takes requests that name one, or a router
