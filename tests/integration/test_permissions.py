"""The permissions that docs/operating.md gives: what each role can do, and what it cannot."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Queue
from typing import Any

import pytest
import redis
from celery.contrib.testing.worker import start_worker

from jobs import keys
from jobs.broker import TASK, make_app, ring
from jobs.connection import connect
from jobs.errors import Forbidden, NotAllowed, ServiceUnreachable
from jobs.firing import Firing
from jobs.gate import Gate
from jobs.job import Checkpoint, JobState, Reason
from jobs.notify import Hooks
from jobs.registry import Registry
from jobs.schedules import Schedule, Stage
from jobs.spec import Component, TrainSpec
from jobs.store import JobStore
from jobs.store.scheduling import ScheduleStore
from jobs.sweeps import Sweeps
from jobs.timetable import Timetable
from jobs.workers import Worker
from worker.scheduler import Scheduler

DOCUMENT = Path(__file__).parents[2] / "docs" / "operating.md"
SPEC = TrainSpec(model=Component("m"), data=Component("d"))
WORKER = Worker(id="w", store="s")
TTL = 10.0


def documented() -> dict[str, str]:
    """Return the rules of each user as the document has them."""
    found = re.findall(r"^ +ACL SETUSER (\w+) (on .*)$", DOCUMENT.read_text(), re.MULTILINE)
    return dict(found)


class House:
    """A Redis with the documented users."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.admin = connect(url)
        for user, rules in documented().items():
            self.admin.execute_command("ACL", "SETUSER", user, *rules.split())
        self._open = [self.admin]

    def url(self, user: str) -> str:
        return f"{self._url}?username={user}&password=PASSWORD"

    def store(self, user: str) -> JobStore:
        self._open.append(connect(self.url(user)))
        return JobStore(self._open[-1])

    def keys_of(self, job: str) -> list[Any]:
        return [key for key in self.admin.keys("unroll:*") if key.endswith(f":{job}".encode())]

    def close(self) -> None:
        for each in self._open:
            each.close()


@pytest.fixture
def house(make_server: Callable[..., Any]) -> Iterator[House]:
    server = make_server()
    with connect(server.url) as admin:
        try:
            admin.execute_command("ACL", "SETUSER", "probe", "%R~x")
        except Exception as error:  # before Redis 7 a user is all or nothing to a key
            pytest.skip(str(error))
    opened = House(server.url)
    yield opened
    opened.close()


def test_the_document_gives_the_rules_of_the_table_of_keys() -> None:
    told = re.findall(r"^    (\w+) +(%.*)$", keys.__doc__ or "", re.MULTILINE)
    rules = {user: re.findall(r"%\S+", line) for user, line in documented().items()}
    assert rules == {user: line.replace(":NS:", ":default:").split() for user, line in told}
    assert list(rules) == ["submitter", "worker", "looker"]


def test_a_submitter_cannot_forge_a_result(house: House) -> None:
    submitter, worker = house.store("submitter"), house.store("worker")
    job = submitter.create(SPEC).id
    with pytest.raises(Forbidden, match="this user of the service may not do that; use an address"):
        submitter.acquire(WORKER, TTL)
    found = worker.acquire(WORKER, TTL)
    assert found is not None
    lease = found[1]
    for forge in (
        lambda: submitter.finish(lease, Reason.SUCCEEDED),
        lambda: submitter.renew(lease, TTL),
        lambda: submitter.put_file(lease, "predictions.json", b"{}"),
        lambda: submitter.sweep(TTL),
    ):
        with pytest.raises(ServiceUnreachable, match="may not do that"):
            forge()
    submitter.cancel(job)
    assert worker.renew(lease, TTL) == "cancel"
    worker.finish(lease, Reason.CANCELLED)
    submitter.retry(job)
    submitter.cancel(job)
    submitter.remove(job)
    assert submitter.list() == []
    assert house.keys_of(job), "what workers wrote is theirs to clear"
    worker.sweep(TTL)
    assert worker.cleared()[0] == [job]
    assert house.keys_of(job) == []


def test_a_looker_reads_everything_and_changes_nothing(house: House) -> None:
    worker, looker = house.store("worker"), house.store("looker")
    job = house.store("submitter").create(SPEC)
    for act in (
        lambda: looker.create(SPEC),
        lambda: looker.cancel(job.id),
        lambda: looker.bell("default"),
        lambda: looker.acquire(WORKER, TTL),
    ):
        with pytest.raises(ServiceUnreachable, match="may not do that"):
            act()
    assert looker.get(job.id) == job == looker.list()[0]
    found = worker.acquire(WORKER, TTL)
    assert found is not None
    worker.announce(WORKER, TTL)
    worker.report(found[1], lines=["a line"])
    worker.put_file(found[1], "name", b"content")
    assert looker.logs(job.id, block=0.05) == [(1, "a line")]
    assert looker.logs(job.id, since=1, block=0.05) == looker.metrics(job.id, block=0.05) == []
    assert looker.read_file(job.id, "name") == b"content"
    assert looker.why(job.id).startswith("running")
    assert [each.id for each in looker.workers()] == ["w"]
    assert looker.catalog() is None


def test_a_person_and_a_worker_promote_and_a_looker_looks_on(house: House) -> None:
    submitter, worker, looker = map(house.store, ("submitter", "worker", "looker"))
    for _ in range(2):
        job = submitter.create(SPEC).id
        found = worker.acquire(WORKER, TTL)
        assert found is not None
        worker.publish(found[1], Checkpoint("a.ckpt", "0" * 64, 1, 1), best=True)
        worker.finish(found[1], Reason.SUCCEEDED)
        submitter.beside(Registry).register("m", job, by="person")
    submitter.beside(Registry).promote("m", 1, expect=None, by="person")
    worker.beside(Registry).promote("m", 2, expect=1, by="worker")
    worker.beside(Registry).keep("m", 1, by="worker", reason="worse")
    submitter.beside(Registry).rollback("m", by="person")
    seen = looker.beside(Registry)
    assert seen.resolve("m").number == 1
    assert len(seen.history("m")) == 6
    for act in (
        lambda: seen.register("m", job, by="looker"),
        lambda: seen.register("n", job, by="looker"),
        lambda: seen.promote("m", 2, expect=1, by="looker"),
        lambda: seen.keep("m", 2, by="looker", reason=""),
    ):
        with pytest.raises(ServiceUnreachable, match="may not do that"):
            act()
    submitter.cancel(submitter.create(SPEC).id)
    with pytest.raises(NotAllowed, match="is m@2"):
        submitter.remove(job)
    worker.sweep(TTL)


#: How Redis, in one version or another, refuses a command or a key.
DENIED = r"(?i)permission|can't access"
#: What somebody would send who forges: a command of Redis, with `JOB` for the job's id.
FORGERIES = [
    ("HSET", "run:job:JOB", "state", "succeeded", "round", "1", "result", '{"val/bleu": 99}'),
    ("DEL", "run:job:JOB"),
    ("XADD", "run:points:JOB", "*", "text", '["val/bleu",99,1,1,1,0]'),
    ("XADD", "run:chunks:JOB", "*", "chunk", "x"),
    ("XADD", "run:log:JOB", "*", "text", "all is well"),
    ("XTRIM", "run:log:JOB", "MAXLEN", "0"),
    ("HSET", "run:series:JOB", "step:val/bleu", "999"),
    ("HSET", "run:files:JOB", "predictions.json", "{}"),
    ("ZADD", "run:leases", "9999999999999", "JOB"),
    ("ZREM", "run:leases", "JOB"),
    ("HSET", "run:workers", "w", "1 {}"),
    ("HSET", "run:takes", "w", "nonce JOB 1"),
    ("HSET", "run:catalogs", "digest", "{}"),
    ("SET", "run:swept", "0"),
    ("RENAME", "run:job:JOB", "ask:mine"),
    ("COPY", "ask:request:JOB", "run:job:JOB"),
]
#: What a submitter does, and a looker may not.
REQUESTS = [
    ("HSET", "ask:request:JOB", "withdrawn", "1"),
    ("ZADD", "ask:pending:default", "0", "JOB"),
    ("LPUSH", "bell:default", "{}"),
    ("DEL", "ask:request:JOB"),
]


def send(client: Any, job: str, command: tuple[str, ...], *, by_script: bool) -> None:
    name, *given = (each.replace("JOB", job) for each in command)
    given = [f"unroll:default:{each}" if each.startswith(("ask:", "run:", "bell:")) else each
             for each in given]  # fmt: skip
    if by_script:
        body = "return redis.call(unpack(ARGV))"
        client.execute_command("EVAL", body, 0, name, *given)
    else:
        client.execute_command(name, *given)


@pytest.mark.parametrize("by_script", [False, True])
def test_no_command_forges_what_workers_write(house: House, by_script: bool) -> None:
    job = house.store("submitter").create(SPEC).id
    assert house.store("worker").acquire(WORKER, TTL) is not None
    before = {key: house.admin.dump(key) for key in house.admin.keys("unroll:*")}
    for user, commands in (("submitter", FORGERIES), ("looker", FORGERIES + REQUESTS)):
        with connect(house.url(user)) as client:
            for command in commands:
                with pytest.raises(redis.RedisError, match=DENIED):
                    send(client, job, command, by_script=by_script)
    assert {key: house.admin.dump(key) for key in house.admin.keys("unroll:*")} == before


BEYOND = [
    ("FLUSHALL",),
    ("FLUSHDB",),
    ("KEYS", "*"),
    ("CONFIG", "GET", "requirepass"),
    ("CONFIG", "SET", "maxmemory", "1"),
    ("ACL", "LIST"),
    ("ACL", "SETUSER", "me", "on", "nopass", "+@all", "~*"),
    ("CLIENT", "KILL", "TYPE", "normal"),
    ("SHUTDOWN",),
    ("MONITOR",),
    ("GET", "another:programs:key"),
    ("SET", "unroll:another:ask:sequence", "1"),
]


@pytest.mark.parametrize("user", ["submitter", "worker", "looker"])
def test_no_role_reaches_beyond_its_namespace(house: House, user: str) -> None:
    with connect(house.url(user)) as client:
        for command in BEYOND:
            with pytest.raises(redis.RedisError, match=DENIED):
                client.execute_command(*command)


def test_a_submitter_rings_and_a_worker_hears_it(house: House) -> None:
    submitter = house.store("submitter")
    app = make_app(house.url("worker"))
    heard: Queue[str] = Queue()
    app.task(name=TASK, shared=False)(heard.put)
    ring("default", submitter)
    options = {"pool": "threads", "concurrency": 1, "perform_ping_check": False}
    with start_worker(app, queues=["default"], **options):
        assert heard.get(timeout=20) == "default"


def test_a_worker_may_ask_whether_redis_evicts(house: House) -> None:
    assert house.store("worker").memory() == ("noeviction", 0)


def test_a_submitter_asks_for_schedules_and_a_worker_fires_them(house: House) -> None:
    stores = {user: house.store(user) for user in ("submitter", "worker", "looker")}
    asks, works, looks = (each.beside(ScheduleStore) for each in stores.values())
    now = works.now()
    plan = Schedule(
        name="nightly",
        model="m",
        spec=SPEC.to_dict(),
        gate=Gate(metric="bleu"),
        timetable=Timetable(every=3600, start=now),
        created=now - 1,
    )
    standing = asks.add(plan)
    firing = Firing(trigger="time", seen=str(standing.due), moment=now)
    for forge in (lambda: asks.fire(standing, firing, SPEC), lambda: asks.pin(plan, "0" * 64)):
        with pytest.raises(ServiceUnreachable, match="may not do that"):
            forge()
    with pytest.raises(ServiceUnreachable, match="may not do that"):
        looks.ask("nightly")
    assert works.fire(standing, firing, SPEC) is Stage.TRAINING
    (generation,) = looks.history("nightly")
    assert looks.open() == [generation] == asks.history("nightly")
    asks.pause("nightly")
    assert looks.get("nightly").paused
    asks.resume("nightly")
    asks.ask("nightly")
    asks.remove("nightly")
    Scheduler(stores["worker"]).tick()
    assert stores["looker"].get(generation.train).state is JobState.CANCELLED


def test_a_submitter_asks_for_sweeps_and_webhooks_and_a_worker_sees_to_them(house: House) -> None:
    stores = {user: house.store(user) for user in ("submitter", "worker", "looker")}
    asks, works, looks = (each.beside(Sweeps) for each in stores.values())
    begun = asks.create([{"model.size": 1}], [SPEC], "val/loss")
    for forge in (looks.advance_all, lambda: looks.cancel(begun.id)):
        with pytest.raises(ServiceUnreachable, match="may not do that"):
            forge()
    assert looks.get(begun.id) == begun
    asks.cancel(begun.id)
    works.advance_all()
    asks, works, looks = (each.beside(Hooks) for each in stores.values())
    hook = asks.add("https://example.org", ["failed"]).id
    for forge in (asks.fan_out, lambda: asks.claim(60), lambda: looks.remove(hook)):
        with pytest.raises(ServiceUnreachable, match="may not do that"):
            forge()
    asks.test(hook)
    works.fan_out()
    taken = works.claim(60)
    assert taken is not None
    works.settle(taken, "it answered 500", 5.0)
    assert looks.list()[0].error == "it answered 500"
    asks.remove(hook)
    works.fan_out()
    assert house.admin.keys("unroll:default:run:told") == []
