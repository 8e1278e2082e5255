"""Every kind of fault: what is done to the cluster, and how it is healed."""

import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from tests.benchmarks.chaos import damage
from tests.benchmarks.chaos.cluster import Host
from tests.benchmarks.chaos.plan import Fault
from tests.benchmarks.chaos.processes import Crowd, send
from tests.benchmarks.chaos.scene import Hit, Scene, choose

#: Do it, or return None where nothing is there now that it could fall on.
Do = Callable[[Scene, Fault], Hit | None]

#: Seconds after which a worker that was killed is started again, by whoever looks after it.
_RESTART: Final = 3.0
#: Leases for which something lasts that is noticed, or is not.
_TAKEN_OVER: Final = (1.3, 2.3)
_UNNOTICED: Final = (0.0, 0.6)
_KILL, _STOP, _GO_ON = signal.SIGKILL, signal.SIGSTOP, signal.SIGCONT


@dataclass(frozen=True)
class Kind:
    """One kind of fault."""

    do: Do
    #: What recovery from it waits for: "killed" (a guard sees it at once), "vanished" (the lease
    #: must run out first), "held up" (it passes), "spoiled" (a damaged file or a full disk).
    group: str


# --- a worker, and the host it stands on


def on_host(
    act: Callable[[Scene, Fault, Host], None],
    *,
    part: Callable[[Host], Sequence[int]] = Host.itself,
    clears: bool = False,
) -> Do:
    """Return what falls on a busy host that can be spared, and has the processes it falls on."""

    def do(scene: Scene, fault: Fault) -> Hit | None:
        host = scene.busy_host(fault.pick)
        if host is None or not part(host):
            return None
        hit = scene.hit(host.name, scene.on(host), clears=clears)
        act(scene, fault, host)
        return hit

    return do


def _wrong_for(scene: Scene, host: Host, seconds: float, heal: Callable[[], object]) -> None:
    """Leave a host out of further faults until it is healed."""
    host.wrong = True

    def healed() -> None:
        heal()
        host.wrong = False

    scene.later(seconds, healed)


def _restart(host: Host) -> None:
    host.end(_KILL)
    host.start()


def worker_killed(scene: Scene, fault: Fault, host: Host) -> None:
    """Kill a worker, and with it the supervisors of its jobs."""
    send([host.pid], _KILL)
    _wrong_for(scene, host, _RESTART + fault.amount, partial(_restart, host))


def worker_stopped_and_killed(scene: Scene, fault: Fault, host: Host) -> None:
    """Stop a worker, and kill it a moment later: what it was just told, it never hears."""
    send([host.pid], _STOP)
    scene.later(fault.amount, send, [host.pid], _KILL)
    _wrong_for(scene, host, _RESTART + fault.amount, partial(_restart, host))


def worker_drained(scene: Scene, fault: Fault, host: Host) -> None:
    """Tell a worker to stop, as an operator or a spot market does."""

    def start_again() -> None:
        try:
            host.end(signal.SIGTERM)
        except subprocess.TimeoutExpired:  # as a service manager would
            host.end(_KILL)
        host.start()

    _wrong_for(scene, host, 0, start_again)


def host_vanished(scene: Scene, fault: Fault, host: Host) -> None:
    """Kill everything of a host at once: nobody is left to hand a lease back."""
    everything = host.everything()
    send(everything, _STOP)
    send(everything, _KILL)
    lease = scene.cluster.options.lease_seconds
    _wrong_for(scene, host, lease + _RESTART, partial(_restart, host))


def stopped(pids: Callable[[Host], Sequence[int]], least: float, most: float) -> Do:
    """Return what stops processes of a host, for so many leases, and lets them go on."""

    def act(scene: Scene, fault: Fault, host: Host) -> None:
        found = pids(host)
        send(found, _STOP)
        seconds = leases(scene, fault, least, most)
        _wrong_for(scene, host, seconds, partial(send, found, _GO_ON))

    return on_host(act)


def apart(part: Callable[[Host], None], join: Callable[[Host], None], *, long: bool) -> Do:
    """Return what parts a host from Redis; for so long that its jobs are taken over, or not."""

    def act(scene: Scene, fault: Fault, host: Host) -> None:
        part(host)
        seconds = leases(scene, fault, *(_TAKEN_OVER if long else _UNNOTICED))
        _wrong_for(scene, host, seconds, partial(join, host))

    return on_host(act)


def leases(scene: Scene, fault: Fault, least: float, most: float) -> float:
    """Return the seconds of some leases, between the least and the most."""
    return (least + (most - least) * fault.amount) * scene.cluster.options.lease_seconds


def replies_cut(scene: Scene, fault: Fault, host: Host) -> None:
    """Close connections in the middle of replies that Redis sends to a host."""
    host.proxy.bite(1 + int(10 * fault.pick), fault.amount)


def parent_killed(scene: Scene, fault: Fault, host: Host) -> None:
    """Kill the process that a worker forks its runners from."""
    send(host.parents(), _KILL)


def parent_stopped(scene: Scene, fault: Fault, host: Host) -> None:
    """Stop the process that a worker forks its runners from, for seconds."""
    parents = host.parents()
    send(parents, _STOP)
    scene.later(2 + 6 * fault.amount, send, parents, _GO_ON)


# --- one attempt


def on_attempt(
    part: Callable[[Crowd], Sequence[int]],
    act: Callable[[Scene, Fault, Sequence[int]], None],
    *,
    clears: bool = False,
) -> Do:
    """Return what falls on a part of the processes of an attempt."""

    def do(scene: Scene, fault: Fault) -> Hit | None:
        fitting = [(job, pids) for job in scene.running if (pids := part(scene.crowd(job)))]
        if (chosen := choose(fitting, fault.pick)) is None:
            return None
        job, pids = chosen
        act(scene, fault, pids)
        return scene.hit(job.id, [job], clears=clears)

    return do


def killed(part: Callable[[Crowd], Sequence[int]]) -> Do:
    """Return what kills a part of an attempt."""
    return on_attempt(part, lambda _scene, _fault, pids: send(pids, _KILL), clears=True)


def held_up(part: Callable[[Crowd], Sequence[int]]) -> Do:
    """Return what stops a part of an attempt for seconds, and lets it go on."""

    def act(scene: Scene, fault: Fault, pids: Sequence[int]) -> None:
        send(pids, _STOP)
        scene.later(1 + 3 * fault.amount, send, pids, _GO_ON)

    return on_attempt(part, act)


def guard(crowd: Crowd) -> Sequence[int]:
    """Return the guard."""
    return [crowd.guard] if crowd.guard else []


def runner(crowd: Crowd) -> Sequence[int]:
    """Return the runner, or its first rank."""
    return crowd.ranks[:1]


def second_rank(crowd: Crowd) -> Sequence[int]:
    """Return the second of two ranks."""
    return crowd.ranks[1:]


# --- Redis, and the client


def redis_away(
    act: Callable[[Scene], Callable[[], None]], seconds: Callable[[Scene, Fault], float]
) -> Do:
    """Return what takes Redis away; `act` does it, and returns what brings it back."""

    def do(scene: Scene, fault: Fault) -> Hit | None:
        if scene.redis_is_away:
            return None
        scene.redis_is_away = True
        hit = scene.hit("redis", scene.running)
        bring_back = act(scene)

        def back() -> None:
            bring_back()
            scene.redis_is_away = False

        scene.later(seconds(scene, fault), back)
        return hit

    return do


def kill_redis(scene: Scene) -> Callable[[], None]:
    """Kill Redis; it goes on with what its append-only file holds."""
    scene.cluster.redis.kill()
    return scene.cluster.redis.start


def end_redis(scene: Scene) -> Callable[[], None]:
    """Stop Redis as an operator does."""
    scene.cluster.redis.stop()
    return scene.cluster.redis.start


def stop_redis(scene: Scene) -> Callable[[], None]:
    """Stop Redis where it stands: it answers nothing, and hears everything later."""
    pid = scene.cluster.redis.pid
    send([pid], _STOP)
    return partial(send, [pid], _GO_ON)


def client_killed(scene: Scene, fault: Fault) -> Hit | None:
    """Kill a client in the middle of its submission; whoever it was for submits again."""
    scene.doomed_clients.append(0.02 * fault.amount)
    return Hit("client")


KINDS: Final[Mapping[str, Kind]] = {
    "worker killed": Kind(on_host(worker_killed, clears=True), "killed"),
    "worker paused": Kind(stopped(Host.itself, *_UNNOTICED), "held up"),
    "worker stopped": Kind(stopped(Host.itself, *_TAKEN_OVER), "vanished"),
    "worker stopped, then killed": Kind(on_host(worker_stopped_and_killed), "killed"),
    "worker drained": Kind(on_host(worker_drained, clears=True), "killed"),
    "host vanished": Kind(on_host(host_vanished, clears=True), "vanished"),
    "host frozen": Kind(stopped(Host.everything, *_TAKEN_OVER), "vanished"),
    "host cut off": Kind(apart(Host.cut, Host.join, long=True), "vanished"),
    "host cut off briefly": Kind(apart(Host.cut, Host.join, long=False), "held up"),
    "host held up": Kind(apart(Host.hold, Host.release, long=True), "vanished"),
    "replies cut": Kind(on_host(replies_cut), "held up"),
    "parent killed": Kind(on_host(parent_killed, part=Host.parents), "held up"),
    "parent stopped": Kind(on_host(parent_stopped, part=Host.parents), "held up"),
    "guard killed": Kind(killed(guard), "killed"),
    "guard stopped": Kind(held_up(guard), "held up"),
    "runner killed": Kind(killed(runner), "killed"),
    "runner stopped": Kind(held_up(runner), "held up"),
    "rank killed": Kind(killed(second_rank), "killed"),
    "rank stopped": Kind(held_up(second_rank), "held up"),
    "redis killed": Kind(redis_away(kill_redis, lambda _, fault: 4 * fault.amount), "held up"),
    "redis restarted": Kind(redis_away(end_redis, lambda _, fault: 2 * fault.amount), "held up"),
    "redis stopped": Kind(
        redis_away(stop_redis, lambda scene, fault: leases(scene, fault, 0.2, 3.2)), "held up"
    ),
    "redis disk full": Kind(damage.redis_disk_full, "held up"),
    "client killed": Kind(client_killed, "none"),
    "published checkpoint cut short": Kind(damage.published_cut_short, "spoiled"),
    "published checkpoint altered": Kind(damage.published_altered, "spoiled"),
    "new checkpoint cut short": Kind(damage.new_cut_short, "spoiled"),
    "disk full": Kind(damage.disk_full, "spoiled"),
    "store full": Kind(damage.store_full, "spoiled"),
}
