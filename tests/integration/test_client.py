"""What a person does in Python, against a real Redis; the worker is played."""

import time
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobs import (
    ArtifactError,
    Client,
    Component,
    JobFailed,
    JobState,
    NotAllowed,
    Reason,
    SearchOptions,
    ServiceUnreachable,
    SpecError,
    TrainerOptions,
    TrainSpec,
    UnknownJob,
    WaitTimeout,
)
from jobs.catalog import Catalog, Entry
from jobs.errors import Forbidden
from jobs.intake import absolute_root
from jobs.schema import Parameter
from jobs.spec import PredictSpec

Meanwhile = Callable[[Callable[[], Any]], AbstractContextManager[None]]

TASKS = frozenset({("tokens", "tokens")})
CATALOG = Catalog(
    {"rnn": Entry("rnn", "A model.", (Parameter("hidden_size", "int", ge=1, default=8),), TASKS)},
    {
        "text": Entry("text", "Lines.", (Parameter("root", "str"),), TASKS),
        "sound": Entry("sound", "Waves.", (), frozenset({("features", "class")})),
    },
)


def spec(**fields: Any) -> TrainSpec:
    model = Component("rnn", fields.pop("model", {"hidden_size": 4}))
    data = Component(fields.pop("kind", "text"), fields.pop("data", {"root": "corpus"}))
    return TrainSpec(model=model, data=data, **fields)


def test_a_job_is_submitted_followed_and_used(
    person: Client, hand: Any, meanwhile: Meanwhile
) -> None:
    job = person.submit(spec(), key="first-try")
    assert job.state is JobState.QUEUED
    assert person.submit(spec(), key="first-try").id == job.id
    with meanwhile(lambda: hand.train(val_bleu=99.5, bleu_signature="sig")):
        points = list(job.metrics(follow=True))
        result = job.result(timeout=20)
    assert [(point.name, point.value, point.step) for point in points] == [("val/bleu", 99.5, 10)]
    assert result.metrics == {"val/bleu": 99.5}
    assert result.values["bleu/signature"] == "sig"
    assert job.reason is Reason.SUCCEEDED
    assert [each.id for each in person.list()] == [job.id]
    with meanwhile(lambda: hand.answer(str.upper)):
        assert job.predict(["zwei", "hunde"], timeout=20) == ["ZWEI", "HUNDE"]
    assert [each.id for each in person.list()] == [job.id], "a prediction leaves nothing behind"


def test_n_best_gives_scores(person: Client, hand: Any, meanwhile: Meanwhile) -> None:
    job = person.submit(spec())
    hand.train()
    with meanwhile(lambda: hand.answer(str.title)):
        ((best,),) = job.predict(["ein hund"], n_best=1, timeout=20)
    assert (best.text, best.score) == ("Ein Hund", -0.5)


def test_lines_may_end_as_those_of_a_file_do(
    person: Client, hand: Any, meanwhile: Meanwhile
) -> None:
    job = person.submit(spec())
    hand.train()
    with meanwhile(lambda: hand.answer(str.title)):
        assert job.predict(["ein hund\n", "zwei\r\n"], timeout=20) == ["Ein Hund", "Zwei"]


def test_a_prediction_searches_as_told(person: Client, hand: Any, meanwhile: Meanwhile) -> None:
    job = person.submit(spec())
    hand.train()
    asked: list[Any] = []

    def answer() -> None:
        lease = hand.take()
        asked.append(hand.store.get(lease.job).spec["search"])
        hand.store.put_file(lease, "predictions.json", b'{"lines": [[{"text": "a", "score": 0}]]}')
        hand.store.finish(lease, Reason.SUCCEEDED)

    for search, n_best in (
        (SearchOptions(min_length=2), 3),
        (SearchOptions(beam=5), 3),
        (SearchOptions(sample=True, top_k=4), 3),
    ):
        with meanwhile(answer):
            job.predict(["ein hund"], n_best=n_best, search=search, timeout=20)
    assert [(each["beam"], each["n_best"]) for each in asked] == [(3, 3), (5, 3), (1, 3)]
    assert (asked[0]["min_length"], asked[2]["sample"], asked[2]["top_k"]) == (2, True, 4)


def test_a_generation_is_told_what_to_write(
    person: Client, hand: Any, meanwhile: Meanwhile
) -> None:
    job = person.submit(spec())
    hand.train()

    def work() -> None:
        lease = hand.take()
        asked = hand.store.get(lease.job).spec
        assert (asked["prompt"], asked["length"], asked["seed"]) == ("To be", 6, 3)
        content = b'{"lines": [[{"text": "To be or not", "score": -1}]]}'
        hand.store.put_file(lease, "predictions.json", content)
        hand.store.finish(lease, Reason.SUCCEEDED)

    with meanwhile(work):
        assert job.generate("To be", length=6, seed=3, timeout=20) == "To be or not"
    assert [each.id for each in person.list()] == [job.id], "a generation leaves nothing behind"


def test_no_lines_need_no_job(person: Client) -> None:
    assert person.submit(spec()).predict([]) == []


def test_a_cursor_goes_on_behind_what_was_seen(person: Client, hand: Any) -> None:
    job = person.submit(spec())
    lease = hand.take()
    for step in range(1, 6):
        hand.report(lease, step, train_loss=1 / step)
    points = list(job.metrics())
    assert [point.step for point in points] == [1, 2, 3, 4, 5]
    assert list(job.metrics(since=points[2].cursor)) == points[3:]
    assert job.progress.step == 5


def test_following_ends_with_the_job_and_misses_nothing(
    person: Client, hand: Any, meanwhile: Meanwhile
) -> None:
    job = person.submit(spec())
    lease = hand.take()

    def work() -> None:
        for step in range(1, 41):
            hand.report(lease, step, train_loss=step)
            hand.store.report(lease, lines=[f"line {step}"])
            time.sleep(0.005)
        hand.store.finish(lease, Reason.SUCCEEDED)

    with meanwhile(work):
        assert [point.step for point in job.metrics(follow=True)] == list(range(1, 41))
    assert list(job.logs(follow=True)) == [f"line {step}" for step in range(1, 41)]


def test_a_failure_carries_the_remote_traceback(person: Client, hand: Any) -> None:
    job = person.submit(spec())
    hand.fail(Reason.BAD_DATA, "train.de has 3 lines, train.en 2", "Traceback:\n  in prepare")
    with pytest.raises(JobFailed, match=r"bad_data.*train\.de has 3 lines") as caught:
        job.result(timeout=20)
    assert (caught.value.reason, caught.value.traceback) == ("bad_data", "Traceback:\n  in prepare")
    assert "in prepare" in "".join(traceback.format_exception(caught.value))


def test_a_cancelled_job_has_no_result(person: Client) -> None:
    job = person.submit(spec())
    job.cancel()
    with pytest.raises(JobFailed, match="was cancelled") as caught:
        job.result(timeout=20)
    assert caught.value.reason == "cancelled"


def test_a_wait_that_runs_out_leaves_the_job_alone(person: Client) -> None:
    job = person.submit(spec())
    with pytest.raises(WaitTimeout, match=r"still queued after 0\.1 s"):
        job.wait(timeout=0.1)
    assert job.state is JobState.QUEUED


def test_a_prediction_nobody_waits_for_is_cancelled(person: Client, hand: Any) -> None:
    job = person.submit(spec())
    hand.train()
    with pytest.raises(WaitTimeout):
        job.predict(["x"], timeout=0.05)
    (left,) = (each for each in person.list() if each.kind == "predict")
    assert left.state is JobState.CANCELLED


def test_clone_takes_overrides(person: Client) -> None:
    job = person.submit(spec(trainer=TrainerOptions(max_epochs=3)))
    twin = job.clone("trainer.max_epochs=5", "seed=7")
    assert twin.id != job.id
    assert twin.record.spec["trainer"] == {"max_epochs": 5}
    assert twin.record.spec["seed"] == 7
    assert twin.record.spec["model"] == job.record.spec["model"]


def test_retry_and_remove(person: Client, hand: Any) -> None:
    job = person.submit(spec())
    hand.fail(Reason.USER_ERROR, "no")
    job.retry()
    assert job.state is JobState.QUEUED
    with pytest.raises(NotAllowed):
        job.remove()
    job.cancel()
    job.remove()
    with pytest.raises(UnknownJob):
        person.get(job.id)


def test_a_prefix_is_enough_where_it_is_one_jobs(person: Client) -> None:
    first, second = person.submit(spec()), person.submit(spec())
    same = next(n for n in range(12) if first.id[n] != second.id[n])
    assert person.get(first.id[: same + 1]).id == first.id
    with pytest.raises(UnknownJob, match="2 jobs"):
        person.get(first.id[:same])
    with pytest.raises(UnknownJob, match="did you mean"):
        person.get(first.id[:-1] + ("x" if first.id[-1] != "x" else "y"))


def test_a_bad_spec_is_refused_and_nothing_queued(person: Client, hand: Any) -> None:
    hand.offer(CATALOG)
    for wrong, message in (
        (spec(model={"hiden_size": 4}), "takes no 'hiden_size'; did you mean 'hidden_size'"),
        (spec(model={"hidden_size": "4"}), "must be int, at least 1, not '4'"),
        (spec(kind="txt"), "no kind of data is called 'txt'; did you mean 'text'"),
        (spec(data={}), "needs 'root'"),
        (spec(kind="sound", data={}), "accepts tokens -> tokens, sound gives features -> class"),
        (spec(trainer=TrainerOptions(max_epochs="many")), "'max_epochs' must be int"),  # type: ignore[arg-type]
        (spec(name="a\x1b[31mb"), "cannot be printed"),
        (spec(tags=("a\0b",)), "cannot be printed"),
        (spec(name="n" * 101), "at most 100 characters, not 101"),
        (spec(data={"root": "\udcff"}), "not valid UTF-8"),
        (spec(data={"root": "x" * 2_000_000}), "at most 1,000,000"),
        (spec(data={"root": float("nan")}), "has nan for 'data.root', a number that is none"),
    ):
        with pytest.raises(SpecError, match=message):
            person.submit(wrong)
    with pytest.raises(UnknownJob):
        person.submit(spec(resume_from="nothing"))
    with pytest.raises(SpecError, match="cannot be printed"):
        person.submit(spec(), key="a\nb")
    assert person.list() == []


def test_without_a_catalogue_the_job_says_that_nobody_checked_it(person: Client, hand: Any) -> None:
    assert person.catalog() is None
    assert person.submit(spec()).record.note == "unchecked"
    hand.offer(CATALOG)
    assert person.submit(spec()).record.note == ""
    assert person.catalog() == CATALOG


def test_only_a_trained_model_can_be_used(person: Client, hand: Any) -> None:
    job = person.submit(spec())
    for use in (job.evaluate, lambda: job.predict(["x"])):
        with pytest.raises(
            NotAllowed, match=rf"no model yet: it is queued; .*unroll wait {job.id}"
        ):
            use()
    hand.train()
    evaluation = job.evaluate(wait=False)
    with pytest.raises(NotAllowed, match="is no training"):
        evaluation.predict(["x"])
    with pytest.raises(ArtifactError):
        evaluation.read_file("predictions.json")


def test_an_evaluation_is_a_job_of_its_own(person: Client, hand: Any, meanwhile: Meanwhile) -> None:
    hand.offer(CATALOG)
    job = person.submit(spec())
    hand.train()
    with pytest.raises(SpecError, match="did you mean 'root'"):
        job.evaluate({"rot": "elsewhere"})
    with pytest.raises(SpecError, match="keeps the kind of data"):
        job.evaluate({"name": "sound"})
    with meanwhile(lambda: hand.train(test_bleu=31.5)):
        evaluation = person.evaluate(job.id[:11], {"root": "other"}, split="test")
    assert evaluation.result().metrics == {"test/bleu": 31.5}
    written = evaluation.record.spec
    assert (written["job"], written["data"]) == (job.id, {"root": "other"})


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a\0b", "line 2 to predict holds a NUL byte"),
        ("a\nb", "a line break"),
        (3, "must be list of str, not 3"),
    ],
)
def test_what_is_no_line_is_refused(person: Client, hand: Any, line: Any, message: str) -> None:
    job = person.submit(spec())
    hand.train()
    with pytest.raises(SpecError, match=message):
        job.predict(["fine", line])
    with pytest.raises(SpecError, match=message.replace("line 2", "line 66")):
        person.submit(PredictSpec(job=job.id, lines=["fine", line], first=64))
    with pytest.raises(SpecError, match="a list of texts, not one text"):
        job.predict("one text")


def test_a_job_waits_for_another_by_a_prefix_of_its_id(person: Client) -> None:
    first = person.submit(spec())
    second = person.submit(spec(after=[first.id[:-1]]))
    assert second.state is JobState.BLOCKED
    assert second.record.spec["after"] == [first.id]


def test_a_relative_root_is_absolute_where_client_and_worker_share_a_home(
    redis_server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "address").write_text(f"{redis_server.url}\n")
    url = redis_server.url
    for client, base, root in (
        (Client(url, tmp_path), None, f"{tmp_path}/corpus"),
        (Client(url, tmp_path), Path("specs"), f"{tmp_path}/specs/corpus"),
        (Client(url, tmp_path / "elsewhere"), None, "corpus"),
    ):
        with client:
            job = client.submit(spec(), base=base)
            assert job.record.spec["data"]["root"] == root
            job.cancel()
            job.remove()


def test_an_absolute_root_stays(person: Client) -> None:
    assert person.submit(spec(data={"root": "/d"})).record.spec["data"]["root"] == "/d"


def test_a_root_may_start_at_the_users_home_or_be_no_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    for given, meant in (
        ("~/corpus", "/home/somebody/corpus"),
        ("~nobody-of-this-name/corpus", "~nobody-of-this-name/corpus"),
        ("hf://owner/name", "hf://owner/name"),
    ):
        assert absolute_root({"root": given}, Path("/specs")) == {"root": meant}


@pytest.mark.parametrize("field", [{"name": None}, {"tags": None}, {"name": 3}])
def test_what_is_no_text_is_no_fault(person: Client, field: dict[str, Any]) -> None:
    try:
        job = person.submit(replace(spec(), **field))
    except SpecError as error:
        assert "must be str" in str(error)  # noqa: PT017 - either will do
    else:
        assert (job.record.spec.get("name"), job.record.spec.get("tags")) == (None, None)


def test_who_submits_and_waits_does_not_read_the_spec_back(
    person: Client, hand: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = person.submit(spec())
    hand.train()
    lines = ["a" * 100_000]
    with monkeypatch.context() as patch:
        job = person.submit(PredictSpec(job=trained.id, lines=lines))
        patch.setattr(person.store, "get", None)
        hand.train(test_bleu=31.5)
        assert job.result(timeout=10).metrics == {"test/bleu": 31.5}
        assert [update.job.state for update in job.updates()][-1:] == [JobState.SUCCEEDED]
        assert list(job.logs(follow=True)) == []
        again = person.submit(spec())
        assert again.id != job.id
    assert job.wait(timeout=10).spec["lines"] == lines
    job.remove()
    with pytest.raises(UnknownJob, match=job.id):
        job.wait(timeout=10)


def test_a_time_to_wait_holds_while_nobody_answers(make_server: Callable[..., Any]) -> None:
    server = make_server()
    with Client(server.url) as client:
        job = client.submit(spec())
        server.kill()
        began = time.monotonic()
        with pytest.raises(WaitTimeout, match=f"nothing is known of job {job.id}: .*no service"):
            job.result(timeout=0.2)
        assert time.monotonic() - began < 60, "not the patience of who sets no time"


def test_who_may_not_look_need_not_wait(person: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(jobs: list[str]) -> None:
        raise Forbidden("not your role")

    job = person.submit(spec())
    monkeypatch.setattr(person.store, "records", refuse)
    with pytest.raises(Forbidden):
        job.wait()


def test_a_closed_client_opens_anew_what_it_is_asked_for(redis_server: Any) -> None:
    with Client(redis_server.url) as client:
        before = client.sweeps, client.hooks, client.registry, client.store
        client.close()
        after = client.sweeps, client.hooks, client.registry, client.store
        assert not {*map(id, before)} & {*map(id, after)}


def test_who_waits_sits_out_a_restart(
    make_server: Callable[..., Any], meanwhile: Meanwhile
) -> None:
    server = make_server(durable=True)
    with Client(server.url) as client:
        job = client.submit(spec())
        job.cancel()
        server.kill()

        def restart() -> None:
            time.sleep(1.5)
            server.start()

        with meanwhile(restart):
            assert job.wait(timeout=30).state is JobState.CANCELLED


def test_no_service_says_how_to_start_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UNROLL_REDIS_URL", raising=False)
    with pytest.raises(ServiceUnreachable, match="unroll up"):
        Client(home=tmp_path)
