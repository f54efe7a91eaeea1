"""Prove on a local cluster what adapters promise. Exit status 1: it is not so.

signature: every token is of the version that the answer names, while adapters change.
swap: how soon a new adapter speaks, and whether running streams notice.
cycles: adapters that were added, used and removed leave nothing behind.
skew: thousands of adapters cost little more than five, and spare each other's tenants.
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from benchmarks.adapters import cycles, signature, skew, swap
from benchmarks.adapters.base_models import QUICKSTART, TINY, base_model
from benchmarks.shared.command_line import without_places
from benchmarks.shared.machine import load_average
from benchmarks.shared.quiet import quiet

PROOFS = {
    "signature": signature.run,
    "swap": swap.run,
    "cycles": cycles.run,
    "skew": skew.run,
}


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.adapters",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    proofs = parser.add_subparsers(dest="proof", required=True)
    signatures = proofs.add_parser("signature", parents=[_common(QUICKSTART)])
    signatures.add_argument("--requests", type=int, default=10_000)
    signatures.add_argument("--adapters", type=int, default=200, help="names, about")
    signatures.add_argument("--supply", type=int, default=900, help="versions made beforehand")
    signatures.add_argument("--slots", type=int, default=16, help="of each replica")
    signatures.add_argument("--concurrency", type=int, default=24, help="requests at once")
    signatures.add_argument("--workers", type=int, default=6, help="changes at once")
    swaps = proofs.add_parser("swap", parents=[_common(QUICKSTART)])
    swaps.add_argument("--swaps", type=int, default=100, help="of each kind")
    swaps.add_argument("--rank", type=int, default=16)
    swaps.add_argument("--slots", type=int, default=4, help="of each replica")
    swaps.add_argument("--keep", type=int, default=12, help="adapters that stay registered")
    swaps.add_argument("--streams", type=int, default=4)
    swaps.add_argument("--stream-tokens", type=int, default=900)
    swaps.add_argument("--window-s", type=float, default=6.0, help="a quiet window")
    turns = proofs.add_parser("cycles", parents=[_common(TINY)])
    turns.add_argument("--cycles", type=int, default=1000)
    turns.add_argument("--rank", type=int, default=16)
    turns.add_argument("--slots", type=int, default=16, help="of each replica")
    turns.add_argument("--workers", type=int, default=6, help="cycles at once")
    many = proofs.add_parser("skew", parents=[_common(QUICKSTART)])
    many.add_argument("--adapters", type=int, default=2000)
    many.add_argument("--hot", type=float, default=0.08, help="share of the adapters")
    many.add_argument("--rank", type=int, default=4)
    many.add_argument("--slots", type=int, default=64, help="of each replica")
    many.add_argument("--workers", type=int, default=4, help="additions at once")
    many.add_argument("--rounds", type=int, default=7)
    many.add_argument("--requests", type=int, default=128, help="of a round")
    many.add_argument("--concurrency", type=int, default=16)
    many.add_argument("--prompt-tokens", type=int, default=32)
    many.add_argument("--tokens", type=int, default=16)
    many.add_argument("--pressing", type=int, default=2, help="the other tenant's at once")
    many.add_argument("--victim-requests", type=int, default=20, help="of a round")
    many.add_argument("--victim-gap-s", type=float, default=0.3, help="mean, between them")
    options = parser.parse_args()
    options.command = "python -m benchmarks.adapters " + " ".join(without_places(sys.argv[1:]))
    folder = options.state or Path(tempfile.mkdtemp(prefix="braid-proof-"))
    with quiet():
        base = base_model(options.base, folder / "base")
        before = load_average()
        result = PROOFS[options.proof](options, base, folder)
    stem = f"adapters-{options.proof}"
    result.load_before = before
    usual = proofs.choices[options.proof].get_default("base")
    suffix = "" if options.base == usual else f"-{options.base.rsplit('/', 1)[-1]}"
    result.write(options.out, stem + suffix)
    print(result.page())
    if options.state is None and result.holds:
        shutil.rmtree(folder)
    sys.exit(0 if result.holds else 1)


def _common(base: str) -> argparse.ArgumentParser:
    """Add the options of all proofs; each has its own defaults."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--base", default=base, help='"tiny", "135m", a hub id or a folder')
    common.add_argument("--seed", type=int, default=0)
    common.add_argument("--out", type=Path, default=Path("docs/results"))
    common.add_argument("--state", type=Path, help="working folder; default: a temporary one")
    return common


if __name__ == "__main__":
    main()
