"""What is exported loads without this service, in an interpreter that knows torch alone."""

import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.job import Reason
from worker.folder import AttemptFolder
from worker.runner.__main__ import run
from worker.runner.commands import Commands
from worker.runner.sets import LONGEST

Lay = Callable[..., AttemptFolder]
LINES = ["abc", "deade", "b"]
#: Packages that an exported model must not need; importing one of these fails.
MISSING = ("lightning", "torchmetrics", "sacrebleu", "annotated_types", "pyarrow", "redis", "babel")
PROGRAM = f"""
import sys

class Absent:
    def find_spec(self, name, *_):
        if name.split(".")[0] in {MISSING!r}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
sys.path.insert(0, sys.argv[1])
import json, load
model = load.Model()
found = model.answers(json.loads(sys.argv[2]), beam=3, n_best=2)
print(json.dumps([[[each.text, each.score] for each in answers] for answers in found]))
assert not [name for name in sys.modules if name.split(".")[0] in ("jobs", "worker", *{MISSING!r})]
assert all(sys.argv[1] in module.__file__ for name, module in sys.modules.items()
           if name.startswith(("lightning_modules", "datamodules")))
"""


def trained_by(folder: AttemptFolder) -> dict[str, Any]:
    assert run(folder, Commands()).reason == Reason.SUCCEEDED
    spec = json.loads(folder.spec_file.read_text())
    return {"checkpoint": str(next(folder.checkpoints.iterdir())), "trained": spec}


def unpack(folder: AttemptFolder, target: Path) -> Path:
    with zipfile.ZipFile(io.BytesIO((folder.files / "export.zip").read_bytes())) as archive:
        archive.extractall(target)
    return target


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"model": {"name": "encoder_decoder"}},
        {"data": {"tokens": "subwords", "vocabulary_size": 300}},
        {"trainer": {"precision": "bf16"}},
    ],
    ids=["attention", "encoder_decoder", "subwords", "bfloat16"],
)
def test_an_exported_model_answers_as_the_service_does(
    lay: Lay, tmp_path: Path, spec: dict[str, Any]
) -> None:
    trained = trained_by(lay("trained", spec))
    search = {"beam": 3, "n_best": 2}
    asked = {"kind": "predict", "job": "job-1", "lines": LINES, "search": search}
    answers = lay("answers", asked, **trained)
    assert run(answers, Commands()).reason == Reason.SUCCEEDED
    exported = lay("exported", {"kind": "export", "job": "job-1"}, **trained)
    end = run(exported, Commands())
    assert end.reason == Reason.SUCCEEDED, end.traceback
    target = unpack(exported, tmp_path / "model")
    done = subprocess.run(
        [sys.executable, "-P", "-c", PROGRAM, str(target), json.dumps(LINES)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    expected = json.loads((answers.files / "predictions.json").read_text())["lines"]
    found = json.loads(done.stdout)
    for these, those in zip(found, expected, strict=True):
        assert [text for text, _ in these] == [each["text"] for each in those]
        scores = [each["score"] for each in those]
        assert [score for _, score in these] == pytest.approx(scores, abs=1e-5)


def test_an_export_says_how_it_was_made_and_names_no_folder_of_the_machine(
    lay: Lay, tmp_path: Path, data_root: Path
) -> None:
    licence = data_root / "corpus" / "LICENSE"
    licence.write_text("Made for tests; do what you like.")
    try:
        exported = lay("exported", {"kind": "export", "job": "job-1"}, **trained_by(lay("trained")))
        assert run(exported, Commands()).reason == Reason.SUCCEEDED
    finally:
        licence.unlink()
    target = unpack(exported, tmp_path / "model")
    config = json.loads((target / "config.json").read_text())
    assert config["model"] == "attention_encoder_decoder"
    assert config["licence"] == "Made for tests; do what you like."
    assert config["trainer"]["batch_tokens"] == 100
    assert set(config["versions"]) == {"python", "unroll", "torch", "lightning", "numpy"}
    assert str(data_root) not in (target / "config.json").read_text()


def test_the_program_of_an_export_answers_or_says_in_one_line_why_not(
    lay: Lay, tmp_path: Path
) -> None:
    exported = lay("exported", {"kind": "export", "job": "job-1"}, **trained_by(lay("trained")))
    assert run(exported, Commands()).reason == Reason.SUCCEEDED
    target = unpack(exported, tmp_path / "model")

    def load(given: bytes, *arguments: str) -> tuple[int, str, str]:
        done = subprocess.run(
            [sys.executable, str(target / "load.py"), *arguments],
            input=given,
            capture_output=True,
            cwd=tmp_path,
            check=False,
        )
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    status, out, err = load(b"abc\r\nb\n")
    assert (status, out.count("\n"), err) == (0, 2, "")
    status, out, err = load(b"abc\n\xff\n")
    assert (status, out.count("\n"), err.count("\n")) == (2, 1, 1)
    assert err.startswith("load.py: line 2: 'utf-8' codec can't decode")
    status, out, err = load(b"a" * LONGEST)  # and the end symbol
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("load.py: line 1: 10,001 symbols, more than 10,000")
    status, out, err = load(b"", "--help")
    assert (status, err) == (0, "")
    assert "python load.py < lines > answers" in out
    weights = target / "weights.pt"
    weights.write_bytes(weights.read_bytes()[:1000])
    status, out, err = load(b"abc\n")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"load.py: {target} holds no whole model: ")
