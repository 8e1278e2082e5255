"""A person's first hour, on the real thing: service, worker, runner, models; nothing is played."""

import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs import Client, Component, JobFailed, JobState, NotAllowed, Reason, SpecError, TrainSpec
from jobs.spec import TrainerOptions

SIDES = {"fw": 1, "bw": -1}


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """Return the client of a service that has said what it can build."""
    with Client.embedded(slots=2) as client:
        assert client.catalog(timeout=120) is not None
        yield client


@pytest.fixture(scope="module")
def corpus(client: Client) -> Path:
    """Return a folder of letters and their reverse, where the worker may read."""
    folder = client.home / "data" / "letters"
    folder.mkdir(parents=True)
    chance = random.Random(3)
    for split, rows in {"train": 80, "val": 12, "test": 12}.items():
        lines = ["".join(chance.choices("abcde", k=chance.randint(2, 9))) for _ in range(rows)]
        for side, step in SIDES.items():
            text = "".join(line[::step] + "\n" for line in lines)
            (folder / f"{split}.{side}").write_text(text, encoding="utf-8")
    return folder


def spec(root: Path, *, model: dict[str, Any] | None = None, epochs: int = 2) -> TrainSpec:
    sizes = {"hidden_size": 12, "embedding_size": 8}
    data = {"root": str(root), "source": "fw", "target": "bw", "tokens": "characters"}
    return TrainSpec(
        model=Component("attention_encoder_decoder", sizes if model is None else model),
        data=Component("parallel_text", data),
        trainer=TrainerOptions(
            max_epochs=epochs, batch_tokens=100, log_every=1, precision="fp32", warmup_steps=4
        ),
    )


@pytest.fixture(scope="module")
def trained(client: Client, corpus: Path) -> Any:
    """Return a job that has succeeded."""
    job = client.submit(spec(corpus), key="first")
    job.result(timeout=240)
    return job


def test_metrics_come_in_order_and_a_cursor_goes_on(trained: Any) -> None:
    points = list(trained.metrics(follow=True))
    assert [point.cursor for point in points] == list(range(1, len(points) + 1))
    assert {"train/loss", "val/loss", "val/bleu", "val/exact_match"} <= {p.name for p in points}
    for name in {point.name for point in points}:
        steps = [point.step for point in points if point.name == name]
        assert steps == sorted(set(steps))
    middle = points[len(points) // 2]
    assert list(trained.metrics(since=middle.cursor)) == points[middle.cursor :]


def test_the_result_is_the_best_that_was_seen(trained: Any) -> None:
    result = trained.result()
    seen = [point.value for point in trained.metrics() if point.name == "val/bleu"]
    assert result.metrics["val/bleu"] == pytest.approx(max(seen))
    assert "tok:" in result.values["bleu_signature"]
    assert trained.reason is Reason.SUCCEEDED
    assert trained.record.checkpoint is not None


def test_a_model_answers_each_line_in_its_place(trained: Any) -> None:
    lines = ["abcde", "e", "edcba", "ab"]
    answers = trained.predict(lines, timeout=240)
    assert len(answers) == 4
    assert trained.predict(lines[::-1], timeout=240) == answers[::-1]


def test_an_evaluation_scores_the_test_split(trained: Any, corpus: Path) -> None:
    evaluation = trained.evaluate()
    metrics = evaluation.result(timeout=240).metrics
    assert {"test/bleu", "test/chrf", "test/accuracy", "test/loss"} <= set(metrics)
    truth = (corpus / "test.bw").read_text()
    assert evaluation.read_file("references.txt").decode() == truth
    assert evaluation.read_file("hypotheses.txt").count(b"\n") == truth.count("\n")


def test_a_misspelt_parameter_never_reaches_the_queue(client: Client, corpus: Path) -> None:
    before = len(client.list())
    with pytest.raises(SpecError, match="takes no 'hiden_size'; did you mean 'hidden_size'"):
        client.submit(spec(corpus, model={"hiden_size": 3}))
    assert len(client.list()) == before


def test_bad_data_fails_the_job_with_the_reason(client: Client, corpus: Path) -> None:
    torn = corpus.parent / "torn"
    torn.mkdir()
    for file in corpus.iterdir():
        (torn / file.name).write_bytes(file.read_bytes())
    with (torn / "train.fw").open("a") as side:
        side.write("one more\n")
    with pytest.raises(JobFailed, match=r"train\.fw.*81.*80|81.*train\.fw") as caught:
        client.submit(spec(torn)).result(timeout=240)
    assert caught.value.reason == Reason.BAD_DATA


def test_data_outside_the_roots_are_refused_with_the_way_to_allow_them(
    client: Client, tmp_path: Path
) -> None:
    with pytest.raises(JobFailed, match="UNROLL_DATA_ROOTS") as caught:
        client.submit(spec(tmp_path)).result(timeout=240)
    assert caught.value.reason in {Reason.USER_ERROR, Reason.BAD_DATA}


def test_a_running_job_can_be_cancelled(client: Client, corpus: Path) -> None:
    job = client.submit(spec(corpus, epochs=10_000))
    deadline = time.monotonic() + 240
    while not job.progress.step:
        assert time.monotonic() < deadline, "the job never trained"
        time.sleep(0.05)
    with pytest.raises(NotAllowed):
        job.remove()
    job.cancel()
    assert job.wait(timeout=60).state is JobState.CANCELLED
