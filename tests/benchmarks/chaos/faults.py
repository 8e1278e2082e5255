"""Every kind of fault: what is done to the cluster, and how it is healed."""

import contextlib
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from tests.benchmarks.chaos import damage
from tests.benchmarks.chaos.cluster import Host
from tests.benchmarks.chaos.plan import Fault
from tests.benchmarks.chaos.processes import send
from tests.benchmarks.chaos.scene import Hit, Scene, choose

#: Do it, or return None where nothing is there now that it could fall on.
Do = Callable[[Scene, Fault], Hit | None]

#: Seconds after which a worker that was killed is started again, by whoever looks after it.
_RESTART: Final = 3.0
_KILL, _STOP, _GO_ON = signal.SIGKILL, signal.SIGSTOP, signal.SIGCONT


@dataclass(frozen=True)
class Kind:
    """One kind of fault."""

    do: Do
    #: What recovery from it waits for: "killed" (a guard sees it at once), "vanished" (the lease
    #: must run out first), "held up" (it passes), "spoiled" (a damaged file or a full disk).
    group: str


def _mend(host: Host, what: str) -> None:
    host.wrong.discard(what)


def _restart(host: Host, what: str) -> None:
    host.end(_KILL)
    host.start()
    _mend(host, what)


def _paused(scene: Scene, host: Host, pids: list[int], seconds: float) -> None:
    def go_on() -> None:
        send(pids, _GO_ON)
        _mend(host, "stopped")

    host.wrong.add("stopped")
    send(pids, _STOP)
    scene.later(seconds, go_on)


# --- a worker, and the host it stands on


def worker_killed(scene: Scene, fault: Fault) -> Hit | None:
    """Kill a worker, and with it the supervisors of its jobs."""
    if (host := scene.busy_host(fault.pick)) is None:
        return None
    hit = scene.hit(host.name, scene.on(host), clears=True)
    host.wrong.add("killed")
    host.end(_KILL)
    scene.later(_RESTART + fault.amount, _restart, host, "killed")
    return hit


def worker_paused(scene: Scene, fault: Fault) -> Hit | None:
    """Stop a worker for less than its lease lives."""
    if (host := scene.busy_host(fault.pick)) is None:
        return None
    hit = scene.hit(host.name, scene.on(host))
    _paused(scene, host, [host.pid], 0.6 * fault.amount * scene.cluster.options.lease_seconds)
    return hit


def worker_stopped(scene: Scene, fault: Fault) -> Hit | None:
    """Stop a worker for so long that its jobs are taken over; then let it go on."""
    if (host := scene.busy_host(fault.pick)) is None:
        return None
    hit = scene.hit(host.name, scene.on(host))
    lease = scene.cluster.options.lease_seconds
    _paused(scene, host, [host.pid], lease * (1.3 + fault.amount))
    return hit


def worker_stopped_and_killed(scene: Scene, fault: Fault) -> Hit | None:
    """Stop a worker, and kill it a moment later: what it was just told, it never hears."""
    if (host := scene.busy_host(fault.pick)) is None:
        return None
    hit = scene.hit(host.name, scene.on(host))
    host.wrong.add("killed")
    send([host.pid], _STOP)
    scene.later(fault.amount, send, [host.pid], _KILL)
    scene.later(_RESTART + fault.amount, _restart, host, "killed")
    return hit


def worker_drained(scene: Scene, fault: Fault) -> Hit | None:
    """Tell a worker to stop, as an operator or a spot market does."""
    if (host := scene.busy_host(fault.pick)) is None:
        return None
    hit = scene.hit(host.name, scene.on(host), clears=True)

    def start_again() -> None:
        with contextlib.suppress(Exception):  # one that does not leave in time is killed
            host.end(signal.SIGTERM)
        _restart(host, "drained")

    host.wrong.add("drained")
    scene.later(0, start_again)
    return hit


def host_vanished(scene: Scene, fault: Fault) -> Hit | None:
    """Kill everything of a host at once: nobody is left to hand a lease back."""
    if (host := scene.busy_host(fault.pick)) is None:
        return None
    hit = scene.hit(host.name, scene.on(host), clears=True)
    host.wrong.add("vanished")
    everything = host.everything()
    send(everything, _STOP)
    send(everything, _KILL)
    lease = scene.cluster.options.lease_seconds
    scene.later(lease + _RESTART, _restart, host, "vanished")
    return hit


def host_frozen(scene: Scene, fault: Fault) -> Hit | None:
    """Stop everything of a host, as of a virtual machine that is moved, and let it go on."""
    if (host := scene.busy_host(fault.pick)) is None:
        return None
    hit = scene.hit(host.name, scene.on(host))
    lease = scene.cluster.options.lease_seconds
    _paused(scene, host, host.everything(), lease * (1.3 + fault.amount))
    return hit


def _apart(
    scene: Scene,
    fault: Fault,
    seconds: float,
    ways: Callable[[Host], tuple[Callable[[], None], ...]],
) -> Hit | None:
    if (host := scene.busy_host(fault.pick)) is None:
        return None
    hit = scene.hit(host.name, scene.on(host))
    part, join = ways(host)

    def rejoin() -> None:
        join()
        _mend(host, "cut off")

    host.wrong.add("cut off")
    part()
    scene.later(seconds, rejoin)
    return hit


def host_cut_off(scene: Scene, fault: Fault) -> Hit | None:
    """Cut a host off from Redis for so long that its jobs are taken over."""
    lease = scene.cluster.options.lease_seconds
    return _apart(scene, fault, lease * (1.3 + fault.amount), lambda host: (host.cut, host.join))


def host_cut_off_briefly(scene: Scene, fault: Fault) -> Hit | None:
    """Cut a host off from Redis for a moment."""
    lease = scene.cluster.options.lease_seconds
    return _apart(scene, fault, 0.6 * fault.amount * lease, lambda host: (host.cut, host.join))


def host_held_up(scene: Scene, fault: Fault) -> Hit | None:
    """Hold up all that a host and Redis say to each other; late writes arrive all the same."""
    lease = scene.cluster.options.lease_seconds
    return _apart(
        scene,
        fault,
        lease * (1.3 + fault.amount),
        lambda host: (host.proxy.hold, host.proxy.release),
    )


def replies_cut(scene: Scene, fault: Fault) -> Hit | None:
    """Close connections in the middle of replies that Redis sends to a host."""
    if (host := scene.busy_host(fault.pick)) is None:
        return None
    host.proxy.bite(1 + int(10 * fault.pick), fault.amount)
    return scene.hit(host.name, scene.on(host))


def parent_killed(scene: Scene, fault: Fault) -> Hit | None:
    """Kill the process that a worker forks its runners from."""
    host = scene.busy_host(fault.pick)
    if host is None or (parent := host.parent) is None:
        return None
    send([parent], _KILL)
    return scene.hit(host.name, scene.on(host))


def parent_stopped(scene: Scene, fault: Fault) -> Hit | None:
    """Stop the process that a worker forks its runners from, for seconds."""
    host = scene.busy_host(fault.pick)
    if host is None or (parent := host.parent) is None:
        return None
    send([parent], _STOP)
    scene.later(2 + 6 * fault.amount, send, [parent], _GO_ON)
    return scene.hit(host.name, scene.on(host))


# --- one attempt


def guard_killed(scene: Scene, fault: Fault) -> Hit | None:
    """Kill a guard: its ranks die with it."""
    job = choose(scene.running, fault.pick)
    if job is None or (guard := scene.crowd(job).guard) is None:
        return None
    send([guard], _KILL)
    return scene.hit(job.id, [job], clears=True)


def guard_stopped(scene: Scene, fault: Fault) -> Hit | None:
    """Stop a guard for seconds."""
    job = choose(scene.running, fault.pick)
    if job is None or (guard := scene.crowd(job).guard) is None:
        return None
    send([guard], _STOP)
    scene.later(1 + 5 * fault.amount, send, [guard], _GO_ON)
    return scene.hit(job.id, [job])


def runner_killed(scene: Scene, fault: Fault) -> Hit | None:
    """Kill a runner: its rank 0, or the only one."""
    job = choose(scene.running, fault.pick)
    if job is None or not (ranks := scene.crowd(job).ranks):
        return None
    send(ranks[:1], _KILL)
    return scene.hit(job.id, [job], clears=True)


def runner_stopped(scene: Scene, fault: Fault) -> Hit | None:
    """Stop a runner for seconds."""
    job = choose(scene.running, fault.pick)
    if job is None or not (ranks := scene.crowd(job).ranks):
        return None
    send(ranks, _STOP)
    scene.later(1 + 3 * fault.amount, send, ranks, _GO_ON)
    return scene.hit(job.id, [job])


def rank_killed(scene: Scene, fault: Fault) -> Hit | None:
    """Kill the second of two ranks."""
    pairs = [job for job in scene.running if len(scene.crowd(job).ranks) > 1]
    if (job := choose(pairs, fault.pick)) is None:
        return None
    send(scene.crowd(job).ranks[1:], _KILL)
    return scene.hit(job.id, [job], clears=True)


def rank_stopped(scene: Scene, fault: Fault) -> Hit | None:
    """Stop the second of two ranks for seconds: the first waits for it."""
    pairs = [job for job in scene.running if len(scene.crowd(job).ranks) > 1]
    if (job := choose(pairs, fault.pick)) is None:
        return None
    ranks = scene.crowd(job).ranks[1:]
    send(ranks, _STOP)
    scene.later(1 + 3 * fault.amount, send, ranks, _GO_ON)
    return scene.hit(job.id, [job])


# --- Redis, and the client


def _redis(scene: Scene, act: Callable[[], None], heal: Callable[[], None], seconds: float) -> Hit:
    def back() -> None:
        heal()
        scene.redis_is_away = False

    scene.redis_is_away = True
    hit = scene.hit("redis", scene.running)
    act()
    scene.later(seconds, back)
    return hit


def redis_killed(scene: Scene, fault: Fault) -> Hit | None:
    """Kill Redis, and start it again on what its append-only file holds."""
    if scene.redis_is_away:
        return None
    redis = scene.cluster.redis
    return _redis(scene, redis.kill, redis.start, 4 * fault.amount)


def redis_restarted(scene: Scene, fault: Fault) -> Hit | None:
    """Stop Redis as an operator does, and start it again."""
    if scene.redis_is_away:
        return None
    redis = scene.cluster.redis
    return _redis(scene, redis.stop, redis.start, 2 * fault.amount)


def redis_stopped(scene: Scene, fault: Fault) -> Hit | None:
    """Stop Redis for up to three leases; it answers nothing, and hears everything later."""
    if scene.redis_is_away:
        return None
    pid = scene.cluster.redis.pid
    seconds = 0.5 + 3 * fault.amount * scene.cluster.options.lease_seconds
    return _redis(
        scene,
        lambda: send([pid], _STOP),
        lambda: send([pid], _GO_ON),
        seconds,
    )


def client_killed(scene: Scene, fault: Fault) -> Hit | None:
    """Kill a client in the middle of its submission; whoever it was for submits again."""
    scene.doomed_clients.append(0.02 * fault.amount)
    return Hit("client")


KINDS: Final[Mapping[str, Kind]] = {
    "worker killed": Kind(worker_killed, "killed"),
    "worker paused": Kind(worker_paused, "held up"),
    "worker stopped": Kind(worker_stopped, "vanished"),
    "worker stopped, then killed": Kind(worker_stopped_and_killed, "killed"),
    "worker drained": Kind(worker_drained, "killed"),
    "host vanished": Kind(host_vanished, "vanished"),
    "host frozen": Kind(host_frozen, "vanished"),
    "host cut off": Kind(host_cut_off, "vanished"),
    "host cut off briefly": Kind(host_cut_off_briefly, "held up"),
    "host held up": Kind(host_held_up, "vanished"),
    "replies cut": Kind(replies_cut, "held up"),
    "parent killed": Kind(parent_killed, "held up"),
    "parent stopped": Kind(parent_stopped, "held up"),
    "guard killed": Kind(guard_killed, "killed"),
    "guard stopped": Kind(guard_stopped, "held up"),
    "runner killed": Kind(runner_killed, "killed"),
    "runner stopped": Kind(runner_stopped, "held up"),
    "rank killed": Kind(rank_killed, "killed"),
    "rank stopped": Kind(rank_stopped, "held up"),
    "redis killed": Kind(redis_killed, "held up"),
    "redis restarted": Kind(redis_restarted, "held up"),
    "redis stopped": Kind(redis_stopped, "held up"),
    "client killed": Kind(client_killed, "none"),
    "published checkpoint cut short": Kind(damage.published_cut_short, "spoiled"),
    "published checkpoint altered": Kind(damage.published_altered, "spoiled"),
    "new checkpoint cut short": Kind(damage.new_cut_short, "spoiled"),
    "disk full": Kind(damage.disk_full, "spoiled"),
    "store full": Kind(damage.store_full, "spoiled"),
}
