"""Runs the host: ``python .../cluster/engine/hosted/host FD PARENT``.

FD is an end of a socket, PARENT the process that has the other one. The host runs in vLLM's
environment. Of this project it sees the package ``cluster`` alone, found by its own place, and none
of the packages that the replica is run with.
"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = str(HERE.parents[3])

sys.path[:] = [ROOT, *(path for path in sys.path if Path(path).resolve() != HERE)]
import cluster  # noqa: E402, F401 - once it is found, its modules are found by it

sys.path.remove(ROOT)

if __name__ == "__main__":  # not in the processes that vLLM starts for its ranks
    from cluster.engine.hosted.host.serving import serve

    serve(int(sys.argv[1]), int(sys.argv[2]))
