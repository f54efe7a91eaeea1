"""Prove on a local cluster what adapters promise. Exit status 1: it is not so.

signature: every token is of the generation that the answer names, while adapters change.
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from benchmarks.adapters import signature
from benchmarks.adapters.base_models import TINY, base_model
from cluster.bench.quiet import quiet

PROOFS = {"signature": signature.run}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.adapters",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--base", help='"tiny", "135m", a hub id or a folder')
    common.add_argument("--seed", type=int, default=0)
    common.add_argument("--out", type=Path, default=Path("docs/results"))
    common.add_argument("--state", type=Path, help="working folder; default: a temporary one")
    proofs = parser.add_subparsers(dest="proof", required=True)
    signatures = proofs.add_parser("signature", parents=[common])
    signatures.set_defaults(base=TINY)
    signatures.add_argument("--requests", type=int, default=10_000)
    signatures.add_argument("--adapters", type=int, default=200, help="names, about")
    signatures.add_argument("--supply", type=int, default=900, help="generations made beforehand")
    signatures.add_argument("--slots", type=int, default=16, help="of each replica")
    signatures.add_argument("--concurrency", type=int, default=24, help="requests at once")
    signatures.add_argument("--workers", type=int, default=2, help="changes at once")
    options = parser.parse_args()
    options.command = "python -m benchmarks.adapters " + " ".join(sys.argv[1:])
    folder = options.state or Path(tempfile.mkdtemp(prefix="braid-proof-"))
    with quiet():
        base = base_model(options.base, folder / "base")
        result = PROOFS[options.proof](options, base, folder)
    stem = f"adapters-{options.proof}"
    result.write(options.out, stem if options.base == TINY else f"{stem}-{base.called}")
    print(result.page())
    if options.state is None and result.holds:
        shutil.rmtree(folder)
    sys.exit(0 if result.holds else 1)


if __name__ == "__main__":
    main()
