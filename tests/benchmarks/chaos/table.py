"""Show what a run has come to."""

import json

from rich.console import Console
from rich.table import Table

from tests.benchmarks.chaos.faults import KINDS
from tests.benchmarks.chaos.ledger import MUST_BE_ZERO, Ledger, spread
from tests.benchmarks.chaos.plan import Plan


def show(plan: Plan, ledger: Ledger) -> None:
    """Print the tables, the remarks, and as the last line the figures as JSON."""
    console = Console(width=100)
    console.print(_account(ledger), _recovery(ledger))
    for line in ledger.remarks:
        console.print(line, markup=False)
    figures = {"seed": plan.seed, **ledger.figures()}
    console.file.write(f"{json.dumps(figures)}\n")


def _account(ledger: Ledger) -> Table:
    table = Table("", "", title="what became of the jobs", show_header=False)
    for name in ("submitted", "ended", *MUST_BE_ZERO, "faults", "attempts", "stale_tried"):
        table.add_row(name.replace("_", " "), f"{getattr(ledger, name):g}")
    return table


def _recovery(ledger: Ledger) -> Table:
    table = Table("fault", "times", "p50", "p95", "longest", title="seconds to the next step")
    groups = {kind.group for kind in KINDS.values()}
    for name in (*sorted(groups), *KINDS):
        if name in ledger.recovery:
            times = spread(ledger.recovery[name])
            table.add_row(
                name,
                f"{times['count']:g}",
                *(f"{times[each]:.2f}" for each in ("p50", "p95", "longest")),
                end_section=name == max(groups),
            )
    return table
