"""The attacker's process: one case over four connections for some seconds.

usage: python -m benchmarks.hostile.attack URL KEY MODEL SECONDS CASE
Prints one line of JSON: how often, which answers, the largest answer in bytes.
"""

import contextlib
import http.client
import json
import socket
import sys
import threading
import time
from collections import Counter
from urllib.parse import urlsplit

from benchmarks.hostile.bodies import BODIES
from benchmarks.hostile.connections import CONNECTIONS

ATTACKERS = 4
MOST = 2000
"""Requests or connections of one attacker, however quick the answers are."""
PATIENCE_S = 120.0


class Attack:
    """Holds what four attackers share."""

    def __init__(self, host: str, port: int, key: str) -> None:
        self.host, self.port, self.key = host, port, key
        self.answers: Counter[str] = Counter()
        self.largest = 0

    def request(self, path: str, body: bytes, until: float) -> None:
        """Send one body again and again."""
        headers = {"authorization": f"Bearer {self.key}", "content-type": "application/json"}
        connection = http.client.HTTPConnection(self.host, self.port, timeout=PATIENCE_S)
        for _ in range(MOST):
            if time.monotonic() > until:
                break
            try:
                connection.request("POST", path, body, headers)
                answer = connection.getresponse()
                self.largest = max(self.largest, len(answer.read()))
                self.answers[str(answer.status)] += 1
                if answer.status == 429:  # as fast as a client that does not care
                    time.sleep(0.01)
            except (OSError, http.client.HTTPException) as error:
                self.answers[type(error).__name__] += 1
                connection.close()
        connection.close()

    def connect(self, name: str, until: float) -> None:
        """Open one connection after the other."""
        for _ in range(MOST):
            if time.monotonic() > until:
                break
            with (
                contextlib.suppress(OSError),
                socket.create_connection((self.host, self.port), timeout=10) as sock,
            ):
                self.answers["connections"] += 1
                CONNECTIONS[name](sock, self.key, until)


def main() -> None:
    """Run the command."""
    url, key, model, seconds, name = sys.argv[1:]
    parts = urlsplit(url)
    attack = Attack(parts.hostname or "", parts.port or 80, key)
    if name in BODIES:
        path, body = BODIES[name](model)
    until = time.monotonic() + float(seconds)
    attackers = [
        threading.Thread(target=attack.request, args=(path, body, until))
        if name in BODIES
        else threading.Thread(target=attack.connect, args=(name, until))
        for _ in range(ATTACKERS)
    ]
    for one in attackers:
        one.start()
    for one in attackers:
        one.join()
    print(json.dumps({"answers": dict(attack.answers), "largest": attack.largest}))


if __name__ == "__main__":
    main()
