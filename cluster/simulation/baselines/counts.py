"""Rules for the replica count that look at requests in flight.

They are fed Braid's own count of requests that run, wait or are held, once a tick.
"""

import math
from collections import deque
from dataclasses import dataclass, field

from cluster.placement.scaling.count import ScaleInputs
from cluster.placement.scaling.schedule import bounds_at


def _bounded(count: int, inputs: ScaleInputs) -> int:
    low, high = bounds_at(inputs.policy.replicas, inputs.wall)
    return min(max(count, low), high)


@dataclass
class FixedCount:
    """Runs the same number of replicas all the time."""

    replicas: int

    def count(self, inputs: ScaleInputs, in_flight: int, now: float) -> int:
        """Return it."""
        del inputs, in_flight, now
        return self.replicas


@dataclass
class RayServeCount:
    """Scales by requests per replica as Ray Serve's default policy does (Ray 2.5x).

    The requests in flight are averaged over ``look_back_s``. Their ratio to ``target`` times the
    running replicas gives the wish, whose distance is scaled by a factor and rounded up. A wish
    becomes the count when it has pointed in one direction without a break for a delay. The defaults
    are Serve's.
    """

    target: float = 2.0  # ongoing requests of a replica
    look_back_s: float = 30.0
    upscale_delay_s: float = 30.0
    downscale_delay_s: float = 600.0
    upscaling_factor: float = 1.0
    downscaling_factor: float = 1.0
    _window: deque[tuple[float, int]] = field(default_factory=deque)
    _direction: int = 0
    _since: float = 0.0

    def count(self, inputs: ScaleInputs, in_flight: int, now: float) -> int:
        """Return the replicas to have from now on."""
        self._window.append((now, in_flight))
        while self._window[0][0] < now - self.look_back_s:
            self._window.popleft()
        mean = sum(requests for _, requests in self._window) / len(self._window)
        if inputs.ready == 0:
            return _bounded(max(inputs.target, 1 if mean > 0 else 0), inputs)
        wish = _bounded(self._wish(mean, inputs.ready), inputs)
        direction = (wish > inputs.target) - (wish < inputs.target)
        if direction != self._direction:
            self._direction, self._since = direction, now
        delay = self.upscale_delay_s if direction > 0 else self.downscale_delay_s
        if direction and now - self._since >= delay:
            self._direction = 0
            return wish
        return _bounded(inputs.target, inputs)

    def _wish(self, mean: float, running: int) -> int:
        wished = mean / self.target
        factor = self.upscaling_factor if wished > running else self.downscaling_factor
        scaled = math.ceil(running + factor * (wished - running))
        if scaled == running and math.ceil(wished) < running:
            return running - 1  # else a small factor would never release the last one
        return scaled


@dataclass
class PodAutoscalerCount:
    """Scales by requests per replica as Kubernetes' HorizontalPodAutoscaler (autoscaling/v2) does.

    Each ``period_s`` the wish is ``ceil(ready * ratio)``, with ``ratio`` the mean requests of a
    ready replica over ``target``. Within ``tolerance`` of 1 nothing changes. Up goes at once, at
    most to the double or 4 more in 15 s. Down goes to the highest wish of the last
    ``stabilisation_s``. The defaults are Kubernetes' own, except ``target``, which has none there.
    """

    target: float = 2.0  # requests of a replica
    period_s: float = 15.0
    tolerance: float = 0.1
    stabilisation_s: float = 300.0
    _wishes: deque[tuple[float, int]] = field(default_factory=deque)
    _looked_at: float | None = None

    def count(self, inputs: ScaleInputs, in_flight: int, now: float) -> int:
        """Return the replicas to have from now on."""
        if self._looked_at is not None and now - self._looked_at < self.period_s:
            return _bounded(inputs.target, inputs)
        self._looked_at = now
        wish = self._wish(in_flight, inputs)
        self._wishes.append((now, wish))
        while self._wishes[0][0] < now - self.stabilisation_s:
            self._wishes.popleft()
        if wish > inputs.target:
            wish = min(wish, max(2 * inputs.target, inputs.target + 4))
        elif wish < inputs.target:
            wish = min(inputs.target, max(before for _, before in self._wishes))
        return _bounded(wish, inputs)

    def _wish(self, in_flight: int, inputs: ScaleInputs) -> int:
        ready = inputs.ready
        if ready == 0:
            return max(inputs.target, 1 if in_flight else 0)
        ratio = in_flight / ready / self.target
        if abs(ratio - 1.0) <= self.tolerance:
            return inputs.target
        return max(1, math.ceil(ready * ratio))
