"""Named models in Python and on the command line, against a real Redis; the worker is played."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any

import pytest

from jobs import Client, Component, NotAllowed, TrainSpec, UnknownJob, UnknownModel
from jobs.cli import main
from jobs.connection import connect
from jobs.store import JobStore

Meanwhile = Callable[[Callable[[], Any]], AbstractContextManager[None]]

SPEC = TrainSpec(model=Component("rnn"), data=Component("text"))


def train(client: Client, hand: Any) -> str:
    """Return a training that has succeeded."""
    job = client.submit(SPEC).id
    hand.train()
    return job


def test_a_champion_is_used_by_name(person: Client, hand: Any, meanwhile: Meanwhile) -> None:
    jobs = [train(person, hand) for _ in range(2)]
    versions = [person.models.register("de-en", job[:11], note="try") for job in jobs]
    assert [each.label for each in versions] == ["de-en@1", "de-en@2"]
    model = person.models["de-en"]
    with pytest.raises(NotAllowed, match="de-en has no champion"):
        _ = model.champion
    assert model.challenger.number == 2
    model.promote(1, reason="the first")
    with meanwhile(lambda: hand.answer(str.upper)):
        assert model.champion.predict(["zwei"], timeout=20) == ["ZWEI"]
    with meanwhile(lambda: hand.answer(str.upper)):
        assert person.predict("de-en@2", ["drei"], timeout=20) == ["DREI"]
    assert [each.id for each in model.versions] == jobs
    assert model.version(2).record.id == jobs[1]
    assert [each.name for each in person.models] == ["de-en"]
    assert ("de-en" in person.models, "de" in person.models) == (True, False)
    model.promote(2, expect=1)
    with pytest.raises(NotAllowed, match="version 1 was not promoted"):
        model.promote(1, expect=1)
    assert model.rollback("stutters").champion == 1
    told = [(each.action, each.version, each.reason) for each in model.history()[2:]]
    assert told == [
        ("promoted", 1, "the first"),
        ("promoted", 2, ""),
        ("rolled_back", 1, "stutters"),
    ]
    assert repr(model.champion) == "VersionHandle('de-en@1')"


def test_a_version_whose_training_is_gone_says_so(person: Client, hand: Any) -> None:
    first, second = train(person, hand), train(person, hand)
    for job in (first, second):
        person.models.register("de-en", job)
    person.models["de-en"].promote(2)
    person.models["de-en"].release(1)
    assert person.models.trained("de-en@1").id == first, "it is there until it is cleared"
    person.get(first).remove()
    with pytest.raises(NotAllowed, match=rf"de-en@1 was released, and its job {first} is gone"):
        person.models.trained("de-en@1")


def test_a_version_is_a_number(person: Client, hand: Any) -> None:
    person.models.register("de-en", train(person, hand))
    for wrong in ("1", True, 1.0):
        with pytest.raises(UnknownModel, match=rf"de-en has no version {wrong!r}: they are 1 to 1"):
            person.models["de-en"].promote(wrong)  # type: ignore[arg-type]


def test_a_name_that_is_neither_job_nor_model_says_so(person: Client, hand: Any) -> None:
    person.models.register("de-en", train(person, hand))
    with pytest.raises(UnknownModel, match=r"'de-em'.*no model is called so either"):
        person.models.trained("de-em")
    with pytest.raises(UnknownModel, match="did you mean 'de-en'"):
        person.models.trained("de-em@2")
    with pytest.raises(UnknownJob):
        person.models.trained("000")
    with pytest.raises(UnknownModel, match="did you mean 'de-en'"):
        _ = person.models["de-em"]


@dataclass
class Said:
    """What a command said, and its exit status."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Return the one JSON value on standard output."""
        return json.loads(self.out)


Unroll = Callable[..., Said]


@pytest.fixture
def unroll(
    tmp_path: Path,
    redis_server: Any,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Unroll:
    url = f"{redis_server.url}?db=6"
    with connect(url) as connection:
        connection.flushdb()
    monkeypatch.setenv("UNROLL_REDIS_URL", url)
    monkeypatch.setenv("UNROLL_HOME", str(tmp_path))

    def run(*arguments: str, stdin: bytes = b"") -> Said:
        monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO(stdin)))
        capsys.readouterr()
        status = main(arguments)
        said = capsys.readouterr()
        return Said(status, said.out, said.err)

    return run


@pytest.fixture
def there(unroll: Unroll, hand: Any) -> Iterator[tuple[Client, Any]]:
    """Return a client of the command line's service, and who plays its worker."""
    with Client() as client, connect(client.url) as connection:
        yield client, type(hand)(JobStore(connection))


def test_a_life_of_a_model(unroll: Unroll, there: Any, meanwhile: Meanwhile) -> None:
    first, second = train(*there), train(*there)
    assert "no models" in unroll("models", "ls").out
    assert unroll("models", "ls", "--json").json == []
    said = unroll("models", "register", "de-en", first, "--promote", "--reason", "the only one")
    assert said.out == f"de-en@1 is job {first} (champion)\n"
    said = unroll("models", "register", "de-en", second, "--parent", "1", "--note", "warm")
    assert said.out == f"de-en@2 is job {second} (challenger)\n"
    summary = {"name": "de-en", "champion": 1, "challenger": 2, "versions": 2}
    assert unroll("models", "ls", "--json").json == [summary]
    assert unroll("models", "ls").out.splitlines()[1].split() == ["de-en", "2", "1", "2"]
    shown = unroll("models", "show", "de-en").out.splitlines()
    assert [line.split()[:3] for line in shown[1:]] == [
        ["1", "champion", first],
        ["2", "challenger", second],
    ]
    assert unroll("models", "show", "de-en", "--json").json["versions"][1]["parent"] == 1

    said = unroll("models", "promote", "de-en", "2", "--expect", "1", "--reason", "better")
    assert said.out == "de-en: champion is version 2, before version 1\n"
    assert "were not looked at" in said.err
    said = unroll("models", "promote", "de-en", "1", "--expect", "1")
    assert (said.status, said.out, said.err.count("\n")) == (2, "", 1)
    assert "promoted version 2 of de-en" in said.err
    with meanwhile(lambda: there[1].answer(str.upper)):
        assert unroll("predict", "de-en", stdin=b"zwei\n").out == "ZWEI\n"

    back = unroll("models", "rollback", "de-en", "--json").json
    assert (back["champion"], back["before"], back["files"]) == (1, 2, "unchecked")
    assert unroll("models", "release", "de-en", "1").status == 2
    assert unroll("models", "release", "de-en", "2").out == "de-en@2 is kept no more\n"
    assert unroll("models", "show", "de-en").out.splitlines()[2].split()[1] == "released"
    told = unroll("models", "history", "de-en").out.splitlines()
    assert len(told) == 6
    assert told[3].endswith("promoted 2 (before: 1): better")
    actions = [each["action"] for each in unroll("models", "history", "de-en", "--json").json]
    assert actions == [
        "registered",
        "promoted",
        "registered",
        "promoted",
        "rolled_back",
        "released",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "nothing"], "no model is called 'nothing'"),
        (["register", "de en", "ID"], "cannot be the name of a model"),
        (["promote", "m", "7"], "m has no version 7: they are 1 to 1"),
        (["promote", "m", "0"], "0 is not in the range"),
        (["rollback", "m"], "m has had no champion before now"),
        (["promte", "m", "1"], "did you mean 'promote'"),
    ],
)
def test_what_cannot_be_is_one_line(
    unroll: Unroll, there: Any, arguments: list[str], message: str
) -> None:
    job = train(*there)
    assert unroll("models", "register", "m", job).status == 0
    said = unroll("models", *(job if each == "ID" else each for each in arguments))
    assert (said.status, said.out, said.err.count("\n")) == (2, "", 1)
    assert message in said.err
    assert unroll("models", "history", "m", "--json").json[1:] == []


def test_a_version_is_not_removed(unroll: Unroll, there: Any) -> None:
    job = train(*there)
    unroll("models", "register", "m", job)
    said = unroll("rm", job)
    assert (said.status, said.err) == (
        2,
        f"unroll: job {job} is m@1, and versions of models are kept\n",
    )
