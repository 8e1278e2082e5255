"""One run: the jobs undisturbed, then the plan, then the account of it."""

import time
from collections.abc import Callable

from jobs.client import Client
from tests.benchmarks.chaos import specs
from tests.benchmarks.chaos.cluster import Cluster, Options, await_parents, running
from tests.benchmarks.chaos.drive import CLEARED_SECONDS, Drive
from tests.benchmarks.chaos.ledger import Bookkeeper, Ledger, Values, values_of
from tests.benchmarks.chaos.plan import Plan, PlannedJob

#: Seconds for a job that nobody disturbs.
_PATIENCE = 300.0


def run(plan: Plan, options: Options, say: Callable[[str], None]) -> Ledger:
    """Carry out a plan and return what it has come to."""
    with running(options) as cluster, Client(cluster.redis.url) as client:
        await_parents(cluster)
        way = "lose packets" if cluster.networks else "hold them up: no networks can be made here"
        say(f"hosts that are cut off {way}")
        say("every job is run undisturbed first")
        undisturbed = run_undisturbed(plan, cluster, client)
        story = Drive(cluster, plan, say).run()
        keeper = Bookkeeper(cluster, story, undisturbed)
        keeper.read_records(client.store, others=len(undisturbed))
        cluster.drain()
        time.sleep(CLEARED_SECONDS)
        keeper.read_processes(cluster.left())
        cluster.redis.stop()
        keeper.read_history()
        return keeper.close()


def run_undisturbed(plan: Plan, cluster: Cluster, client: Client) -> dict[tuple[str, int], Values]:
    """Run each kind of job once; return its values."""
    kinds = sorted({(job.shape, job.seed) for job in plan.jobs})
    started = {
        kind: client.submit(specs.spec_of(PlannedJob(-1, *kind), cluster.text)) for kind in kinds
    }
    for job in started.values():
        job.result(_PATIENCE)
    return {kind: values_of(job.metrics()) for kind, job in started.items()}
