"""Frames from a folder alone: each target trained by each topology that takes it, scored, asked."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs.job import Reason
from worker.events import EventReader, MetricEvent
from worker.folder import AttemptFolder
from worker.runner.__main__ import run
from worker.runner.commands import Commands

Lay = Callable[..., AttemptFolder]

SPEC: dict[str, Any] = {
    "kind": "train",
    "seed": 1,
    "trainer": {"max_epochs": 3, "batch_tokens": 60, "precision": "fp32", "warmup_steps": 4},
}
#: A topology for each target, and one of the scores that it gives.
CASES = {
    "label": ("many_to_one", "accuracy"),
    "value": ("single_layer", "mae_original"),
    "tags": ("many_to_many", "f1"),
    "labels": ("many_to_many", "micro_f1"),
    "values": ("many_to_many", "mse_original"),
    "next": ("language_model", "mse_original"),
    "text": ("attention_encoder_decoder", "cer"),
}


@pytest.fixture
def frames(tmp_path: Path, lay_plain: Lay) -> Path:
    """A folder of sequences: waves that turn up or down, with all that can be said of them."""
    folder = tmp_path / "data" / "waves"
    folder.mkdir()
    chance = np.random.default_rng(4)
    for split, count in (("train", 60), ("val", 12), ("test", 12)):
        lines = []
        for row in range(count):
            up = chance.choice([-1.0, 1.0], size=chance.integers(1, 6))
            np.save(folder / f"{split}-{row}.npy", np.stack([up, np.cumsum(up)], axis=1))
            words = ["up" if each > 0 else "down" for each in up]
            said = {"label": words[0], "value": float(up.sum()), "text": " ".join(words)}
            lines.append(json.dumps({"path": f"{split}-{row}.npy", **said, "labels": words}))
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    return folder


def rewrite(folder: Path, target: str) -> None:
    """Give manifests what only some targets want."""
    for manifest in folder.glob("*.jsonl"):
        rows = [json.loads(line) for line in manifest.read_text().splitlines()]
        for row in rows:
            words = row["labels"]
            if target == "labels":
                row["labels"] = [[word, "any"] if word == "up" else [] for word in words]
            if target == "values":
                row["values"] = [len(word) for word in words]
        manifest.write_text("\n".join(map(json.dumps, rows)))


@pytest.mark.parametrize("target", CASES)
def test_frames_are_learned_scored_and_asked(target: str, frames: Path, lay_plain: Lay) -> None:
    name, score = CASES[target]
    rewrite(frames, target)
    small = {} if name == "single_layer" else {"hidden_size": 8}
    data = {"name": "feature_frames", "root": "waves", "target": target, "bptt": 3}
    spec = {**SPEC, "model": {"name": name, **small}, "data": data}
    training = lay_plain("train", spec)
    end = run(training, Commands())
    assert end.reason == Reason.SUCCEEDED, end.traceback
    assert np.isfinite(end.result[f"val/{score}"])
    told = {e.name for e in EventReader(training.events_file).read() if isinstance(e, MetricEvent)}
    assert "train/loss" in told
    assert ("train/accuracy" in told) is (target not in {"value", "values", "next"})
    trained = {"checkpoint": str(next(training.checkpoints.iterdir())), "trained": spec}

    end = run(lay_plain("score", {"kind": "evaluate", "job": "job-1"}, **trained), Commands())
    assert end.reason == Reason.SUCCEEDED, end.traceback
    assert np.isfinite(end.result[f"test/{score}"])

    lines = ["waves/test-0.npy", "", "waves/test-1.npy"]
    asked = lay_plain("asked", {"kind": "predict", "job": "job-1", "lines": lines}, **trained)
    assert run(asked, Commands()).result == {"lines": 3}
    answers = json.loads((asked.files / "predictions.json").read_text())["lines"]
    assert all(len(each) == 1 for each in answers)
    if target in {"tags", "values", "labels"}:
        steps = [len(np.load(frames / line.removeprefix("waves/"))) for line in lines if line]
        assert [len(answers[row][0]["text"].split()) for row in (0, 2)] == steps

    (frames / "torn.npy").write_bytes(b"no array")
    for line in ("waves/gone.npy", "waves/torn.npy"):
        wrong = {"kind": "predict", "job": "job-1", "lines": [*lines, line]}
        end = run(lay_plain(f"wrong-{Path(line).stem}", wrong, **trained), Commands())
        assert end.reason == Reason.BAD_DATA
        assert end.message.startswith("line 4: "), end.message


@pytest.fixture
def trained(frames: Path, lay_plain: Lay) -> Callable[[str], dict[str, Any]]:
    """Return a function that trains a language model of waves, or of notes, to be used."""

    def train(frame_loss: str) -> dict[str, Any]:
        if frame_loss == "bernoulli":
            for path in frames.glob("*.npy"):
                np.save(path, np.load(path) > 0)
        spec = {
            **SPEC,
            "model": {"name": "language_model", "hidden_size": 4, "layers": 1},
            "data": {"name": "feature_frames", "root": "waves", "target": "next"},
        }
        training = lay_plain("train", spec)
        assert run(training, Commands()).reason == Reason.SUCCEEDED
        return {"checkpoint": str(next(training.checkpoints.iterdir())), "trained": spec}

    return train


@pytest.fixture
def write_on(lay_plain: Lay) -> Callable[..., tuple[Any, AttemptFolder]]:
    """Return a function that lets a trained model write on, and returns its end and its folder."""
    names = (f"write-{number}" for number in itertools.count())

    def write(trained: dict[str, Any], **asked: Any) -> tuple[Any, AttemptFolder]:
        spec = {"kind": "generate", "job": "job-1", "length": 6, **asked}
        folder = lay_plain(next(names), spec, **trained)
        return run(folder, Commands()), folder

    return write


@pytest.mark.parametrize("frame_loss", ["bernoulli", "squared"])
def test_a_model_of_frames_writes_frames_on(
    frame_loss: str, frames: Path, trained: Any, write_on: Any
) -> None:
    model, written = trained(frame_loss), []
    for prompt, seed in (("waves/test-0.npy", 1), ("waves/test-0.npy", 2), ("", 1)):
        end, folder = write_on(model, prompt=prompt, seed=seed)
        assert end.reason == Reason.SUCCEEDED, end.traceback
        ((answer,),) = json.loads((folder.files / "predictions.json").read_text())["lines"]
        written.append(np.load(folder.files / "generated.npy"))
        assert (written[-1].shape, written[-1].dtype) == ((6, 2), np.float32)
        assert np.loadtxt(answer["text"].splitlines()) == pytest.approx(written[-1], rel=1e-5)
        assert answer["values"]["frames"] == pytest.approx(written[-1], rel=1e-5)
        assert answer["score"] == end.result["score"]
    drawn = frame_loss == "bernoulli"
    assert (written[0] == written[1]).all() is not drawn
    assert drawn is bool(np.isin(written, [0, 1]).all())
    assert (end.result["score"] < 0) is drawn


def test_frames_written_in_pieces_are_those_written_at_once(
    frames: Path, trained: Any, write_on: Any
) -> None:
    model = trained("squared")
    _, whole = write_on(model, prompt="waves/test-0.npy")
    _, first = write_on(model, prompt="waves/test-0.npy", length=4)
    parts = [np.load(frames / "test-0.npy"), np.load(first.files / "generated.npy")]
    np.save(frames / "longer.npy", np.concatenate(parts))
    _, rest = write_on(model, prompt="waves/longer.npy", length=2)
    at_once = np.load(whole.files / "generated.npy")
    assert np.load(rest.files / "generated.npy") == pytest.approx(at_once[4:], abs=1e-4)


def test_more_frames_than_can_be_carried_are_refused(
    trained: Any, write_on: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = trained("squared")
    _, folder = write_on(model)
    needed = sum(each.stat().st_size for each in folder.files.iterdir())
    for room, reason in ((needed, Reason.SUCCEEDED), (needed - 1, Reason.USER_ERROR)):
        monkeypatch.setattr("worker.runner.predict.MAX_CARRIED_BYTES", room)
        assert write_on(model)[0].reason == reason
    assert "can be carried: ask for fewer, or for shorter ones" in write_on(model)[0].message


def test_what_a_model_of_frames_cannot_write_on_from_is_refused(
    frames: Path, trained: Any, write_on: Any
) -> None:
    np.save(frames / "wide.npy", np.zeros((2, 3)))
    model = trained("squared")
    for asked, reason, why in (
        ({"prompt": "gone.npy"}, Reason.BAD_DATA, "there is no file 'gone.npy'"),
        ({"prompt": "/etc/passwd"}, Reason.BAD_DATA, "outside the allowed data roots"),
        ({"prompt": "waves/wide.npy"}, Reason.BAD_DATA, "waves/wide.npy has 3 features a frame"),
        ({"top_k": 3}, Reason.USER_ERROR, "top_k and top_p choose among symbols"),
        ({"temperature": 0.5}, Reason.USER_ERROR, "temperature is for what is drawn"),
    ):
        end, folder = write_on(model, **asked)
        assert (end.reason, list(folder.files.iterdir())) == (reason, [])
        assert why in end.message
        assert not end.traceback
