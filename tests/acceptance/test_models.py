"""A model's way from training to champion and back, on the real thing; nothing is played."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from jobs import Client, Component, JobFailed, NotAllowed, Reason, SearchOptions, TrainSpec
from jobs.cli import main
from jobs.spec import TrainerOptions

Said = Callable[..., Any]
TIMEOUT = 240


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """Return the client of a service that has said what it can build."""
    with Client.embedded(slots=1) as client:
        assert client.catalog(timeout=120) is not None
        yield client


def spec(seed: int, epochs: int) -> TrainSpec:
    data = {"examples": 400, "held_out": 60, "locales": ["en"], "unseen_locale": "de"}
    return TrainSpec(
        model=Component("attention_encoder_decoder", {"hidden_size": 24, "embedding_size": 12}),
        data=Component("dates", data),
        trainer=TrainerOptions(max_epochs=epochs, batch_tokens=800, precision="fp32", lr=1e-2),
        seed=seed,
    )


@pytest.fixture(scope="module")
def trained(client: Client) -> list[str]:
    """Return a training that hardly began, and one that went on for longer."""
    jobs = [client.submit(spec(1, 1)), client.submit(spec(2, 12))]
    for job in jobs:
        job.result(timeout=TIMEOUT)
    return [job.id for job in jobs]


@pytest.fixture
def unroll(client: Client, capsys: pytest.CaptureFixture[str]) -> Said:
    """Return the command line; what it says as JSON is returned."""

    def run(*arguments: str) -> Any:
        capsys.readouterr()
        assert main([*arguments, "--home", str(client.home), "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return run


@contextmanager
def hidden(path: Path) -> Iterator[None]:
    """Take a file away for the length of a block."""
    aside = path.with_name("aside")
    path.rename(aside)
    yield
    aside.rename(path)


def test_from_training_to_champion_and_back(
    client: Client, trained: list[str], unroll: Said
) -> None:
    first, second = trained
    assert unroll("models", "register", "dates", first, "--promote")["champion"] == 1
    assert unroll("models", "register", "dates", second)["challenger"] == 2

    row = unroll("evaluate", "dates", "--resamples", "200")
    assert (row["version"], row["rows"], row["metric"]) == ("dates@1", 60, "bleu")
    low, high = row["intervals"]["test/exact_match"]
    assert low <= row["test/exact_match"] <= high
    assert row["checkpoint"] == client.models["dates"].champion.version.checkpoint.digest

    found = unroll("compare", "dates@champion", "dates@challenger", "--metric", "accuracy")
    assert found["evaluations"][0] == row["id"], "what was evaluated so is not evaluated again"
    assert (found["better"], found["significant"]) == ("second", True)
    assert found["verdict"].startswith("dates@2 is better: +")
    assert 0 < found["low"] < found["difference"] < found["high"]
    assert found["examples"][0]["references"]

    part = unroll(
        "compare", "dates@1", "dates@2", "--metric", "accuracy", "--slice", "length=short"
    )
    assert part["evaluations"] == found["evaluations"]
    assert part["verdict"].startswith("dates@2 is better on length=short (")

    evidence = {"accuracy": found["difference"], "comparison": found["id"]}
    model = client.models["dates"]
    assert model.promote(2, expect=1, reason=found["verdict"], **evidence).champion == 2
    told = model.history()[-1]
    assert told.evidence == {**evidence, "files": "checked"}
    assert client.models["dates"].champion.id == second
    assert len(client.predict("dates", ["3 May 1999"], timeout=TIMEOUT)) == 1
    with pytest.raises(NotAllowed, match="is dates@2, and versions of models are kept"):
        client.get(second).remove()

    board = unroll("leaderboard", "dates", "--metric", "accuracy")
    assert [each["model"] for each in board["groups"][0]["standings"]] == ["dates@2", "dates@1"]
    assert unroll("models", "rollback", "dates", "--reason", "just to see")["champion"] == 1

    checkpoint = model.version(2).version.checkpoint
    with (
        hidden(client.home / "store" / checkpoint.artifact),
        pytest.raises(NotAllowed, match=r"dates@2 cannot be the champion: the file .* is missing"),
    ):
        model.promote(2)
    assert [each["action"] for each in unroll("models", "history", "dates")] == [
        *("registered", "promoted", "registered", "promoted", "rolled_back"),
    ]


def test_ways_of_decoding_are_compared_only_where_asked(client: Client, trained: list[str]) -> None:
    greedy, wide = (
        client.evaluate(trained[1], search=SearchOptions(beam=beam), resamples=0) for beam in (1, 4)
    )
    with pytest.raises(NotAllowed, match=r"ways of decoding differ .*beam=1 and beam=4"):
        client.compare(greedy.id, wide.id)
    found = client.compare(
        greedy.id, wide.id, across=("decoding",), metric="exact_match", method="mcnemar"
    )
    assert found.low <= found.difference <= found.high


def test_a_test_set_that_changed_under_its_digest_is_refused(
    client: Client, trained: list[str]
) -> None:
    row = client.evaluate(trained[0], resamples=0).result(TIMEOUT).values
    again = client.evaluate(trained[0], resamples=0, expect_digest=row["split_digest"])
    assert again.result(TIMEOUT).values["test/loss"] == row["test/loss"]
    changed = client.evaluate(
        trained[0], {"seed": 9}, resamples=0, expect_digest=row["split_digest"][:16]
    )
    with pytest.raises(JobFailed, match="is not the one that was asked for") as caught:
        changed.result(TIMEOUT)
    assert caught.value.reason == Reason.BAD_DATA
