"""Prove the service under faults: `make chaos`, or `python -m tests.benchmarks.chaos --help`.

Jobs that train for real run on several hosts, while a seeded plan kills, stops, cuts off and
damages what they stand on. The table says what it has come to; the last line is the same as JSON.
The exit status is 1 where something was lost, doubled, overwritten, left behind or not exactly
resumed.
"""

import argparse
import signal
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from tests.benchmarks.chaos.cluster import Options
from tests.benchmarks.chaos.faults import KINDS
from tests.benchmarks.chaos.plan import draw
from tests.benchmarks.chaos.run import run
from tests.benchmarks.chaos.specs import SHAPES
from tests.benchmarks.chaos.table import show

#: Exit status after SIGTERM, as a shell would give it.
_TERMINATED = 143


def main() -> int:
    """Run the plan that the command line describes; return the exit status."""
    given = read_arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_TERMINATED))  # what was started is ended
    kinds = [kind for kind in KINDS if not given.kinds or kind in given.kinds]
    plan = draw(given.seed, given.jobs, given.faults, kinds=kinds, shapes=list(SHAPES))
    plan = replace(plan, apart=given.apart)
    with tempfile.TemporaryDirectory(prefix="unroll-chaos-") as temporary:
        folder = Path(given.keep or temporary).resolve()
        options = Options(
            folder,
            hosts=given.workers,
            slots=given.slots,
            lease=given.lease or None,
            appendfsync=given.appendfsync,
            networks=not given.no_networks,
        )
        ledger = run(plan, options, say=tell)
    show(plan, ledger)
    return 0 if ledger.clean else 1


def read_arguments() -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="the same seed, the same plan")
    parser.add_argument("--jobs", type=int, default=300)
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--workers", type=int, default=4, help="hosts with a worker each")
    parser.add_argument("--slots", type=int, default=2, help="of each worker")
    parser.add_argument(
        "--lease", type=float, default=3.0, help="seconds; 0 for the clocks that workers have"
    )
    parser.add_argument("--appendfsync", choices=("always", "everysec"), default="always")
    parser.add_argument(
        "--apart", type=float, default=0.3, help="seconds between two faults at least"
    )
    parser.add_argument(
        "--no-networks", action="store_true", help="cut hosts off by proxies, not by networks"
    )
    parser.add_argument("--kinds", nargs="+", choices=KINDS, metavar="KIND", help="these faults")
    parser.add_argument("--keep", type=Path, help="a new folder in which everything is kept")
    return parser.parse_args()


def tell(line: str) -> None:
    """Say how far it has come."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
