"""Schedules in Python and on the command line, against a real Redis; no worker runs."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from jobs import Client, Component, NotAllowed, SpecError, TrainSpec
from jobs.catalog import Catalog, Entry
from jobs.cli import main
from jobs.connection import connect
from jobs.errors import UnknownSchedule
from jobs.schema import Parameter
from jobs.store import JobStore
from tests.doubles.mill import Mill, system
from worker.scheduler import Scheduler

SPEC_FILE = '[model]\nname = "rnn"\n[data]\nname = "text"\nroot = "corpus"\n'
SPEC = TrainSpec(model=Component("rnn"), data=Component("text", {"root": "corpus"}))
TEXT = frozenset({("tokens", "tokens")})
PARAMETERS = (
    Parameter("root", "str"),
    Parameter("test", "str", default="test"),
    Parameter("metrics", "str", many=True, default=["bleu", "chrf"]),
)
CATALOG = Catalog(
    {"rnn": Entry("rnn", "A model.", (), TEXT)},
    {
        "text": Entry(
            *("text", "Lines.", PARAMETERS, TEXT),
            splits=("train", "val", "test"),
            text_metrics={"bleu": ["bleu"], "chrf": ["chrf"], "rouge": ["rouge1"], "ter": ["ter"]},
            text_metrics_by="metrics",
        ),
        "old": Entry("old", "Of a worker that says less.", PARAMETERS, TEXT),
    },
)
ADD = ("schedule", "add", "nightly", "--spec", "spec.toml", "--model", "de-en")
NIGHTLY = ("--promote-if", "bleu", "--cron", "30 2 * * *", "--tz", "Europe/Berlin")


@dataclass
class Said:
    """What a command said, and its exit status."""

    status: int
    out: str
    err: str


Unroll = Callable[..., Said]


@pytest.fixture
def store(tmp_path: Path, redis_server: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[JobStore]:
    """Return the store of a home whose service is an empty database of the session's server."""
    url = f"{redis_server.url}?db=7"
    monkeypatch.setenv("UNROLL_REDIS_URL", url)
    monkeypatch.setenv("UNROLL_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spec.toml").write_text(SPEC_FILE)
    with connect(url) as connection:
        connection.flushdb()
        yield JobStore(connection)


@pytest.fixture
def unroll(store: JobStore, capsys: pytest.CaptureFixture[str]) -> Unroll:
    def run(*arguments: str) -> Said:
        capsys.readouterr()
        status = main(arguments)
        said = capsys.readouterr()
        return Said(status, said.out, said.err)

    return run


def test_the_life_of_a_schedule(unroll: Unroll, store: JobStore) -> None:
    assert unroll("schedule", "ls").out.startswith("no schedules; add one with")
    added = unroll(*ADD, *NIGHTLY, "--slice", "val", "--margin", "0.5", "--spacing", "6h")
    assert (added.status, added.err) == (0, "")
    assert added.out.startswith("nightly: next at ")
    (listed,) = json.loads(unroll("schedule", "ls", "--json").out)
    assert (listed["name"], listed["model"], listed["slices"]) == ("nightly", "de-en", ["val"])
    assert listed["timetable"]["cron"] == "30 2 * * *"
    assert (listed["gate"]["margin"], listed["spacing"]) == (0.5, 21_600)
    shown = unroll("schedule", "show", "nightly").out
    assert "30 2 * * * (Europe/Berlin)" in shown
    assert "test (frozen), val" in shown
    assert unroll("schedule", "pause", "nightly").out == "nightly: paused\n"
    assert "paused" in unroll("schedule", "ls").out
    assert unroll("schedule", "resume", "nightly").out.startswith("nightly: next at ")
    assert unroll("schedule", "history", "nightly").out == "nightly was not fired yet\n"

    assert unroll("schedule", "run-now", "nightly").out == "nightly: asked for\n"
    assert "asked for already" in unroll("schedule", "run-now", "nightly").out
    assert unroll("schedule", "history", "nightly").out == "nightly was asked for\n"
    assert "now, as asked for" in unroll("schedule", "ls").out
    scheduler, mill = Scheduler(store), Mill(store, lambda *_: system(0.5))
    for _ in range(4):
        scheduler.tick()
        mill.turn()
    told = unroll("schedule", "history", "nightly").out
    assert "(asked)  promoted  version 1  job " in told
    assert "the first model: bleu " in told
    (generation,) = json.loads(unroll("schedule", "history", "nightly", "--json").out)
    assert generation["outcome"] == "promoted"
    assert "promoted" in unroll("schedule", "show", "nightly").out

    assert unroll("schedule", "rm", "nightly").out == "nightly removed\n"
    gone = unroll("schedule", "show", "nightly")
    assert (gone.status, gone.out) == (2, "")
    assert gone.err == "unroll: no schedule is called 'nightly'\n"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--promote-if", "bleu"), "a schedule needs a cron line, an interval, or new data"),
        (
            (*NIGHTLY[:2], "--cron", "0 3 31 2 *"),
            "'0 3 31 2 *' cannot be: look at its day-of-month",
        ),
        ((*NIGHTLY, "--tz", "Europe/Berln"), "did you mean 'Europe/Berlin'"),
        ((*NIGHTLY, "--promote-if", "blue"), "no model reports the metric 'blue'"),
        ((*NIGHTLY, "--every", "6h"), "a cron line or an interval, not both"),
        ((*NIGHTLY[:2], "--every", "often"), "'often' is no length of time; write 90s, 30m"),
        ((*NIGHTLY[:2], "--every", "0d"), "at least 60 seconds, not 0"),
        ((*NIGHTLY[:2], "--every", "9999999w"), "an interval has at most ten years"),
        ((*NIGHTLY, "--start", "9999-12-31"), "the start of a schedule lies from 1970 to 2299"),
        ((*NIGHTLY, "--start", "0001-01-01"), "--start '0001-01-01' lies outside the years 1 to"),
        ((*NIGHTLY, "--catch-up", "9999999w"), "catch_up is a number of seconds from 0 to ten"),
        ((*NIGHTLY, "--grace", "9s"), "grace is a number of seconds from 10 to ten years, not 9"),
        ((*NIGHTLY, "--start", "tomorrow"), "--start 'tomorrow' is no time"),
        ((*NIGHTLY, "--end", "2020-01-01", "--start", "2021-01-01"), "must be after its start"),
        ((*NIGHTLY, "--missed", "all"), "missed=all needs overlap=queue"),
        ((*NIGHTLY, "--slice", "test"), "'test' is the test set itself"),
        ((*NIGHTLY, "--slice", "model.x=1"), "is no split and no data.key=value"),
        ((*NIGHTLY, "--confidence", "1"), "--confidence"),
        ((*NIGHTLY, "resume_from=abc"), "no job has the id 'abc'"),
        ((*NIGHTLY, "data.root=hf://a/b", "--on-data"), "can only be noticed below a folder"),
    ],
)
def test_what_cannot_be_is_one_line_and_nothing_is_kept(
    unroll: Unroll, options: tuple[str, ...], said: str
) -> None:
    refused = unroll(*ADD, *options)
    assert (refused.status, refused.out) == (2, "")
    assert said in refused.err
    assert refused.err.count("\n") == 1
    assert unroll("schedule", "ls", "--json").out == "[]\n"


def test_a_zero_is_not_the_default(unroll: Unroll) -> None:
    zeros = ("--max-drop", "0", "--floor", "0", "--spacing", "0s", "--catch-up", "0s")
    assert unroll(*ADD, *NIGHTLY, *zeros).status == 0
    (listed,) = json.loads(unroll("schedule", "ls", "--json").out)
    assert (listed["gate"]["max_drop"], listed["gate"]["floor"]) == (0, 0)
    assert (listed["spacing"], listed["catch_up"]) == (0, 0)


@pytest.mark.parametrize("verb", ["show", "pause", "resume", "run-now", "rm", "history"])
def test_a_schedule_that_is_not_there_is_named(unroll: Unroll, verb: str) -> None:
    unroll(*ADD, *NIGHTLY)
    refused = unroll("schedule", verb, "nightli")
    assert refused.status == 2
    assert refused.err == "unroll: no schedule is called 'nightli'; did you mean 'nightly'?\n"


def test_the_metric_must_be_one_that_the_model_reports(person: Client, hand: Any) -> None:
    hand.offer(CATALOG)
    with pytest.raises(SpecError, match="this model reports no 'micro_f1'"):
        person.schedule("s", SPEC, model="m", cron="0 3 * * *", promote_if="micro_f1")
    other = TrainSpec(model=Component("rn"), data=SPEC.data)
    with pytest.raises(SpecError, match="did you mean 'rnn'"):
        person.schedule("s", other, model="m", cron="0 3 * * *", promote_if="bleu")
    with pytest.raises(SpecError, match="text takes no 'rot'; did you mean 'root'"):
        person.schedule(
            *("s", SPEC), model="m", every=3600, promote_if="bleu", slices=["data.rot=other"]
        )
    assert person.schedules.list() == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"slices": ["vla"]}, "text has no split 'vla'; did you mean 'val'? (its splits: train, v"),
        ({"split": "tst"}, "text has no split 'tst'; did you mean 'test'?"),
        (
            {"promote_if": "rouge1"},
            "this model reports no 'rouge1'; add 'rouge' to data.metrics (it reports: accuracy, ",
        ),
        ({"promote_if": "wer"}, "this model reports no 'wer' (it reports: accuracy, bleu, "),
    ],
)
def test_what_the_data_has_not_got_is_told_when_the_schedule_is_added(
    person: Client, hand: Any, given: dict[str, Any], said: str
) -> None:
    hand.offer(CATALOG)
    options = {"model": "m", "cron": "0 3 * * *", "promote_if": "bleu", **given}
    with pytest.raises(SpecError) as refused:
        person.schedule("s", SPEC, **options)
    assert said in str(refused.value)
    assert person.schedules.list() == []
    unknown = replace(SPEC, data=Component("old", SPEC.data.params))
    person.schedule("s", unknown, **options)  # a worker of before says neither


def test_a_metric_may_be_one_that_the_spec_asks_for(person: Client, hand: Any) -> None:
    hand.offer(CATALOG)
    asked = replace(SPEC, data=Component("text", {"root": "corpus", "metrics": ["ter", "rouge"]}))
    person.schedule("s", asked, model="m", cron="0 3 * * *", promote_if="rouge1")
    with pytest.raises(SpecError, match=r"no 'bleu'; add 'bleu' to data\.metrics"):
        person.schedule("t", asked, model="m", cron="0 3 * * *", promote_if="bleu")


def test_a_slice_by_labels_needs_labels(person: Client, hand: Any) -> None:
    hand.offer(CATALOG)
    given = {"model": "m", "cron": "0 3 * * *", "promote_if": "bleu"}
    with pytest.raises(SpecError, match="label=a cannot be made: rows of text have no label"):
        person.schedule("s", SPEC, slices=["label=a"], **given)
    added = person.schedule("s", SPEC, slices=["length", "length<=5"], **given).standing.schedule
    assert added.slices == ("length=short", "length=middle", "length=long", "length<=5")
    assert added.sets == ("test",)


def test_a_schedule_in_python(person: Client) -> None:
    schedule = person.schedule(
        "hourly", SPEC, model="de-en", promote_if="bleu", every=3600, missed="skip", floor=20
    )
    standing = schedule.standing
    assert standing.schedule.gate.floor == 20
    assert standing.due == standing.schedule.created + 3_600_000
    assert [each.name for each in person.schedules] == ["hourly"]
    assert ("hourly" in person.schedules, "daily" in person.schedules) == (True, False)
    schedule.pause()
    assert person.schedules["hourly"].standing.paused
    schedule.resume()
    assert schedule.run_now() == schedule.standing.asked
    with pytest.raises(NotAllowed, match="there is a schedule hourly"):
        person.schedule("hourly", SPEC, model="de-en", promote_if="bleu", every=3600)
    with pytest.raises(SpecError, match="unexpected keyword argument 'evry'"):
        person.schedule("other", SPEC, model="de-en", promote_if="bleu", evry=3600)
    schedule.remove()
    with pytest.raises(UnknownSchedule):
        schedule.history()
    assert repr(schedule) == "ScheduleHandle('hourly')"
