"""A streamed completion that is read in a thread, for tests that break something in its midst."""

import json
import threading
from typing import Any

import httpx2
import psutil

from testing.local_cluster import LocalCluster

TIMEOUT_S = 120.0


class LiveStream:
    """Reads one greedy completion; what has come so far may be read at any time.

    Args:
        reach: characters after which ``wait_until_reached`` returns.
        body: of the request, without what every such completion has.
    """

    def __init__(
        self, cluster: LocalCluster, tenant: str, body: dict[str, Any], *, reach: int = 1
    ) -> None:
        self.status = 0
        self.replica = ""  # that served its beginning
        self.text = ""
        self.explain: dict[str, Any] = {}
        self.tokens = 0  # by the usage at its end
        self.problem = ""
        self._url = f"{cluster.url}/v1/completions"
        self._headers = cluster.headers(tenant)
        usage = {"stream_options": {"include_usage": True}}
        self._body = {"temperature": 0, "stream": True, **usage, **body}
        self._reach = reach
        self._reached = threading.Event()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def wait_until_reached(self) -> None:
        """Wait for the first ``reach`` characters.

        Raises:
            AssertionError: the stream ended before, or they did not come in time.
        """
        assert self._reached.wait(TIMEOUT_S), f"no {self._reach} characters: {self.text!r}"
        assert len(self.text) >= self._reach, f"{self.status}: {self.problem or self.text}"

    def join(self) -> None:
        """Wait for the end.

        Raises:
            AssertionError: the answer was refused or cut off.
        """
        self._thread.join()
        assert (self.status, self.problem) == (200, ""), self.text[-200:]

    def _read(self) -> None:
        last = ""
        try:
            with httpx2.stream(
                "POST", self._url, headers=self._headers, json=self._body, timeout=TIMEOUT_S
            ) as answer:
                self.status = answer.status_code
                self.replica = answer.headers.get("x-braid-replica", "")
                for line in answer.iter_lines():
                    if line.startswith("data: "):
                        last = line.removeprefix("data: ")
                        self._take(last)
        except httpx2.HTTPError as error:
            last = repr(error)
        finally:
            if last != "[DONE]":
                self.problem = f"it ended with {last[:200]!r}"
            self._reached.set()

    def _take(self, data: str) -> None:
        if not data.startswith("{"):
            return
        event = json.loads(data)
        self.tokens = (event.get("usage") or {}).get("completion_tokens", self.tokens)
        for choice in event.get("choices", ()):
            self.text += choice.get("text") or ""
            self.explain = choice.get("explain") or self.explain
        if len(self.text) >= self._reach:
            self._reached.set()


def replica_processes(cluster: LocalCluster) -> dict[str, psutil.Process]:
    """Find every replica's process, by the replica's id, so that one can be hit at once."""
    return {one["replica_id"]: cluster.process_of(one) for one in cluster.replicas()}
