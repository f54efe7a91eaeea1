"""Runs the host: ``python .../cluster/engine/hosted/host FD PARENT``.

FD is an end of a socket, PARENT the process that has the other one. The host runs in vLLM's
environment. Of this project it sees the package ``cluster`` alone, found by its own place, and none
of the packages that the replica is run with.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[4]

# The first entry was this folder. What "cluster" has below it is found by the package from then on.
sys.path[0] = str(ROOT)
import cluster  # noqa: E402, F401 - is found here, so that its modules are found by it

del sys.path[0]

if __name__ == "__main__":  # not in the processes that vLLM starts for its ranks
    from cluster.engine.hosted.host.serving import serve

    serve(int(sys.argv[1]), int(sys.argv[2]))
