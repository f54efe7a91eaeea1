"""Write random PEFT adapters for a base model, to load a server with; prints their names."""

import argparse
from pathlib import Path

from cluster.adapters.random_adapters import write_adapters


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="folder of the base model")
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for alias in write_adapters(
        options.model, options.out, options.count, options.rank, options.seed
    ):
        print(alias)


if __name__ == "__main__":
    main()
