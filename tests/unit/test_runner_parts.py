"""The plain parts of the runner: reasons, reports, precision, batches of lines."""

import errno
import io
import json
import math
import os
import re
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from datamodules._errors import DataError, DataPathError
from jobs.errors import SpecError
from jobs.job import Reason
from worker.events import (
    CheckpointEvent,
    EndEvent,
    EventReader,
    MetricEvent,
    PhaseEvent,
    ProgressEvent,
    first_bad_end,
)
from worker.folder import AttemptFolder
from worker.runner import sets
from worker.runner.lightning_setup import spare_threads
from worker.runner.precision import choose, cpu_flags
from worker.runner.predict import batches_by_length
from worker.runner.reasons import (
    BuildError,
    NonFinite,
    Preempted,
    end_of,
    misses_a_rank,
    reason_of,
)
from worker.runner.reporter import Reporter


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Preempted("told to stop"), Reason.PREEMPTED),
        (KeyboardInterrupt(), Reason.PREEMPTED),
        (NonFinite("x"), Reason.NAN),
        (DataPathError("no file"), Reason.BAD_DATA),
        (SpecError("x"), Reason.USER_ERROR),
        (BuildError("x"), Reason.USER_ERROR),
        (MemoryError(), Reason.OUT_OF_MEMORY),
        (torch.OutOfMemoryError("CUDA out of memory"), Reason.OUT_OF_MEMORY),
        (RuntimeError("CUDA error: device-side assert triggered"), Reason.USER_ERROR),
        (RuntimeError("CUDA error: out of memory"), Reason.OUT_OF_MEMORY),
        (RuntimeError("CUDA error: an illegal memory access"), Reason.INFRASTRUCTURE),
        (OSError(28, "No space left on device"), Reason.INFRASTRUCTURE),
        (KeyError("a mistake of ours"), Reason.USER_ERROR),
    ],
)
def test_each_error_has_its_reason(error: BaseException, reason: Reason) -> None:
    assert reason_of(error) == reason


@pytest.mark.parametrize(
    ("error", "is_missed"),
    [
        (RuntimeError("[/x/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection"), True),
        (torch.distributed.DistNetworkError("the store is gone"), True),
        (RuntimeError("NCCL error in: ProcessGroupNCCL.cpp"), True),
        (RuntimeError("size mismatch"), False),
        (SpecError("of NCCL"), False),
    ],
)
def test_who_only_misses_another_rank_has_no_reason_of_its_own(
    error: Exception, is_missed: bool
) -> None:
    assert misses_a_rank(error) == is_missed
    if is_missed:
        assert reason_of(error) == Reason.INFRASTRUCTURE


def test_torch_out_of_main_memory_is_told_from_other_runtime_errors() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50)
    assert reason_of(caught.value) == Reason.OUT_OF_MEMORY


def test_the_message_is_one_line_of_bounded_length() -> None:
    end = end_of(RuntimeError("first\n\tsecond " + "x" * 5000))
    assert end.message.startswith("RuntimeError: first second xxx")
    assert len(end.message) == 1000


def test_the_message_leaves_the_frames_of_torch_to_the_traceback() -> None:
    with pytest.raises(TypeError, match="Exception raised from") as caught:
        torch.empty(10**23)
    end = end_of(caught.value)
    assert "Overflow when unpacking long long" in end.message
    assert "frame #" not in end.message
    assert "frame #" in end.traceback


def test_only_what_explains_itself_comes_without_a_traceback() -> None:
    assert end_of(SpecError("takes no 'x'")) == EndEvent(Reason.USER_ERROR, "takes no 'x'")
    with pytest.raises(KeyError) as caught:
        {}["lost"]
    end = end_of(caught.value)
    assert end.message == "KeyError: 'lost'"
    assert "test_runner_parts.py" in end.traceback


@pytest.fixture
def folder(tmp_path: Path) -> AttemptFolder:
    return AttemptFolder(tmp_path)


def test_a_reporter_writes_what_a_reader_reads(folder: AttemptFolder) -> None:
    said: list[str] = []
    checkpoint = CheckpointEvent("step-00000003.ckpt", "00ff", 3, 1, 0.5, best=True)
    end = EndEvent(Reason.SUCCEEDED, result={"val/bleu": math.inf})
    with Reporter(folder, said.append) as reporter:
        reporter.phase("training")
        reporter.metrics({"train/loss": 2.5, "train/accuracy": 0.25}, step=3, epoch=1)
        reporter.checkpoint(checkpoint)
        reporter.end(end)
    phase, loss, accuracy, *rest = EventReader(folder.events_file).read()
    assert phase == PhaseEvent("training")
    assert isinstance(loss, MetricEvent)
    assert isinstance(accuracy, MetricEvent)
    assert (loss.name, loss.value, loss.step, loss.epoch) == ("train/loss", 2.5, 3, 1)
    assert (accuracy.name, accuracy.value) == ("train/accuracy", 0.25)
    assert rest == [checkpoint, end]
    assert said == [
        "epoch 1  step 3  train/loss 2.5  train/accuracy 0.25",
        "checkpoint step-00000003.ckpt, the best so far (0.5)",
        "ended: succeeded",
    ]


def test_progress_is_told_seldom_unless_it_must_be(folder: AttemptFolder) -> None:
    with Reporter(folder, lambda _: None) as reporter:
        for step in range(100):
            reporter.progress(ProgressEvent(step, 100, 1, 1))
        reporter.progress(ProgressEvent(100, 100, 1, 1), now=True)
    steps = [each.step for each in EventReader(folder.events_file).read()]  # type: ignore[attr-defined]
    assert steps[0] == 0
    assert steps[-1] == 100
    assert len(steps) < 100


def test_ranks_speak_into_files_of_their_own_and_to_nobody(
    folder: AttemptFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    ends = [EndEvent(Reason.SUCCEEDED), EndEvent(Reason.NAN, "x"), EndEvent(Reason.BAD_DATA)]
    for number, end in enumerate(ends):
        with Reporter(folder, lambda _: None, rank=number) as reporter:
            reporter.phase(f"rank {number}")
            reporter.end(end)
    assert capsys.readouterr().out == ""
    phase, end = EventReader(folder.events_file).read()
    assert (phase, end) == (PhaseEvent("rank 0"), ends[0])
    assert [path.name for path in folder.events_of_others] == ["rank-1.jsonl", "rank-2.jsonl"]
    assert first_bad_end([folder.events_file, *folder.events_of_others]) == ends[1]
    assert first_bad_end([folder.events_file]) is None


def test_a_torn_line_hides_no_end_behind_it(folder: AttemptFolder) -> None:
    end = EndEvent(Reason.INFRASTRUCTURE, "the disk is full")
    lines = [b'{"event": "phase", "ph', b"\xff", PhaseEvent("p").to_json().encode()]
    lines += [end.to_json().encode(), b'{"half']
    folder.events_of(1).write_bytes(b"\n".join(lines))
    assert first_bad_end(folder.events_of_others) == end


def test_an_earlier_run_by_hand_says_nothing_of_the_ranks_of_this_one(
    folder: AttemptFolder,
) -> None:
    for reason in (Reason.NAN, Reason.BAD_DATA):
        with Reporter(folder, lambda _: None, rank=1) as reporter:
            reporter.end(EndEvent(reason))
    assert (folder.path / "rank-1-0001.jsonl").exists()
    assert folder.events_of_others == [folder.events_of(1)]


def test_events_of_earlier_runs_are_kept_aside(folder: AttemptFolder) -> None:
    for number in range(3):
        with Reporter(folder, lambda _: None) as reporter:
            reporter.phase(f"run {number}")
    names = ["events-0001.jsonl", "events-0002.jsonl", "events.jsonl"]
    phases = [json.loads((folder.path / name).read_text())["phase"] for name in names]
    assert phases == ["run 0", "run 1", "run 2"]


def test_precision_is_what_was_asked_for_and_auto_asks_the_processor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu = torch.device("cpu")
    assert choose("fp32", cpu) == "32-true"
    assert choose("bf16", cpu) == "bf16-mixed"
    for flags, expected in (("fpu avx512_bf16", "bf16-mixed"), ("fpu avx2", "32-true")):
        monkeypatch.setattr(
            "worker.runner.precision.cpu_flags", lambda flags=flags: frozenset(flags.split())
        )
        assert choose("auto", cpu) == expected


@pytest.mark.parametrize("key", ["flags\t\t", "Features\t"])
def test_processor_flags_are_read_where_the_kernel_tells_them(tmp_path: Path, key: str) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text(f"processor\t: 0\n{key}: fpu bf16\n\nprocessor\t: 1\n")
    assert cpu_flags(file) == {"fpu", "bf16"}
    assert cpu_flags(tmp_path / "absent") == frozenset()


@given(st.lists(st.integers(0, 30), max_size=40), st.integers(1, 200))
def test_every_line_is_searched_once_and_batches_are_bounded(
    lengths: list[int], at_once: int
) -> None:
    batches = list(batches_by_length(lengths, at_once))
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[row] + 1 for row in batch)
        assert len(batch) == 1 or len(batch) * longest <= at_once


def test_half_an_event_on_a_full_disk_does_not_swallow_the_next(
    folder: AttemptFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = os.write

    def full(file: int, text: Any) -> int:
        if len(text) <= 10:
            raise OSError(errno.ENOSPC, "No space left on device")
        return whole(file, bytes(text)[:10])

    with Reporter(folder, lambda _: None) as reporter:
        with monkeypatch.context() as patch:
            patch.setattr("os.write", full)
            with pytest.raises(OSError, match="No space left"):
                reporter.phase("training")
        reporter.end(EndEvent(Reason.INFRASTRUCTURE, "full"))
    reader = EventReader(folder.events_file)
    with pytest.raises(ValueError, match="Invalid control character"):
        list(reader.read())
    assert list(reader.read()) == [EndEvent(Reason.INFRASTRUCTURE, "full")]


class FullDisk(io.StringIO):
    def write(self, _text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_under_the_log_costs_lines_and_no_training(
    folder: AttemptFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout", FullDisk())
    monkeypatch.setattr("sys.stderr", FullDisk())
    with Reporter(folder) as reporter:
        reporter.metrics({"train/loss": 1.0}, step=1, epoch=1)
        reporter.end(EndEvent(Reason.USER_ERROR, "no", "Traceback"))
    assert len(folder.events_file.read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("embedding", "hidden", "threads"),
    [(nn.Embedding(9000, 64), 64, 1), (nn.Embedding(40, 64), 512, 2)],
    ids=["a wide vocabulary is looked up", "wide products"],
)
def test_small_products_are_not_shared(
    embedding: nn.Module, hidden: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [2]
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    spare_threads(nn.Sequential(embedding, nn.GRU(64, hidden), nn.Linear(hidden, 40)))
    assert asked[-1] == threads


@pytest.mark.parametrize("place", [(1, 0), (0, 1)])
@pytest.mark.parametrize("writes", [True, False])
def test_rows_are_too_long_only_for_models_that_write_text_from_a_symbol_on(
    monkeypatch: pytest.MonkeyPatch, place: tuple[int, int], writes: bool
) -> None:
    monkeypatch.setattr(sets, "writes_text", lambda _: writes)
    sizes = np.full((2, 2), sets.LONGEST)
    data: Any = SimpleNamespace(sizes=lambda _: sizes, place=lambda *where: str(where))
    model: Any = None
    sets.refuse_endless(model, data, "val")
    sizes[place] += 1
    refused = f"('val', {place[0]}) has more than 10,000 symbols"
    with pytest.raises(DataError, match=re.escape(refused)) if writes else nullcontext():
        sets.refuse_endless(model, data, "val")
