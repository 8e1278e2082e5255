"""`make bench-toolkit`: how long JoeyNMT takes to 28 validation BLEU on Multi30k, on one core.

What `make bench-quality` is held against: Kreutzer, Bastings & Riezler 2019, "Joey NMT", with a
model of the same kind and size (`joeynmt.yaml`), trained by its own command in an environment of
its own. The clock runs from the start of its process: the making of the environment and of the
subwords is not counted. The row holds processor seconds, which others on the machine change less.
"""

import json
import os
import re
import shutil
import subprocess
import tempfile
import time
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click

from tests.benchmarks.speed._measure import Row
from tests.benchmarks.speed._table import OUTPUT, line_of

_CONFIG: Final = Path(__file__).with_name("joeynmt.yaml")
#: What it needs that it does not ask for, and the last sentencepiece that it works with.
_PACKAGES: Final = (
    "torch==2.13.0",
    "joeynmt==2.3.0",
    "sentencepiece==0.2.0",
    "importlib_metadata",
    "setuptools",
)
_SUBWORDS: Final = """
import sentencepiece, sys
folder = sys.argv[1]
sentencepiece.SentencePieceTrainer.train(
    input=f"{folder}/both.txt", model_prefix=f"{folder}/subwords", vocab_size=6000,
    model_type="bpe", character_coverage=1.0, unk_id=0, pad_id=1, bos_id=2, eos_id=3)
pieces = sentencepiece.SentencePieceProcessor(model_file=f"{folder}/subwords.model")
with open(f"{folder}/vocabulary.txt", "w", encoding="utf-8") as file:
    file.writelines(f"{pieces.id_to_piece(number)}\\n" for number in range(len(pieces)))
"""
_VALIDATED: Final = re.compile(r"Evaluation result \(greedy\): bleu: +([0-9.]+)")


def _environment(folder: Path) -> Path:
    """Return the interpreter of an environment with JoeyNMT, made in `folder` if need be."""
    python = folder / "bin" / "python"
    if not python.exists():
        click.echo(f"installing JoeyNMT in {folder} ...")
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *_PACKAGES], check=True)
    return python


def _prepare(python: Path, data: Path, folder: Path) -> Path:
    """Write lower-cased text, subwords of both sides and the configuration; return the last."""
    both = []
    for split in ("train", "val"):
        for side in ("de", "en"):
            text = (data / f"{split}.{side}").read_text(encoding="utf-8").lower()
            (folder / f"{split}.{side}").write_text(text, encoding="utf-8")
            both += [text] if split == "train" else []
    (folder / "both.txt").write_text("".join(both), encoding="utf-8")
    subprocess.run([python, "-c", _SUBWORDS, folder], check=True, capture_output=True)
    config = folder / "config.yaml"
    config.write_text(_CONFIG.read_text(encoding="utf-8").replace("FOLDER", str(folder)))
    return config


def _validations(python: Path, config: Path) -> Iterator[tuple[float, float, float]]:
    """Train; yield BLEU, and seconds and processor seconds since the start, as it validates."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    command = [str(python), "-u", "-m", "joeynmt", "train", str(config), "--skip-test"]
    began = time.monotonic()
    with subprocess.Popen(
        command,
        env={**os.environ, **threads},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            for line in process.stdout or ():
                if found := _VALIDATED.search(line):
                    spent = time.monotonic() - began
                    yield float(found[1]), spent, _processor_seconds(process.pid)
        finally:
            process.kill()


def _processor_seconds(pid: int) -> float:
    """Return what a process has used so far (proc(5), utime and stime)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@click.command()
@click.option("--data", type=click.Path(path_type=Path), default=Path("data"), show_default=True)
@click.option("--environment", type=click.Path(path_type=Path), default=Path(".joeynmt"))
@click.option("--mark", default=28.0, show_default=True, help="Validation BLEU to reach.")
def main(data: Path, environment: Path, mark: float) -> None:
    """Train until the mark is reached."""
    python = _environment(environment.absolute())
    folder = Path(tempfile.mkdtemp())
    try:
        config = _prepare(python, data / "multi30k", folder)
        for bleu, seconds, used in _validations(python, config):
            click.echo(f"{bleu:.2f} BLEU after {seconds:.0f} s ({used:.0f} s of processor time)")
            if bleu >= mark:
                break
        else:
            raise click.ClickException(f"the training ended below {mark:g} BLEU")
    finally:
        shutil.rmtree(folder)
    row = Row(
        name=f"Multi30k to {mark:g} validation BLEU, JoeyNMT", figure=used, unit="processor s"
    )
    with OUTPUT.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line_of("toolkit", row)) + "\n")


if __name__ == "__main__":
    main()
