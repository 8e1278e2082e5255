"""Run one attempt: `python -m worker.runner FOLDER`; or tell what can be built: `--catalog`.

With `--parent` it is what a worker forks its runners from: each is then spared the imports.

Whatever happens, the last line of the folder's events says how it ended, and the exit status is 0.
An attempt of several ranks is run by as many processes, each with its number in `LOCAL_RANK`; of
the others than the first the exit status is 1 where they ended badly.
"""

import argparse
import contextlib
import faulthandler
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch

from jobs.job import Reason
from jobs.spec import CompareSpec, EvaluateSpec, ExportSpec, GenerateSpec, PredictSpec, TrainSpec
from lightning_modules._ranks import rank
from worker.events import EndEvent, first_bad_end
from worker.folder import AttemptFolder
from worker.guard import STACKS_SIGNAL
from worker.runner.catalog import whole_catalog
from worker.runner.commands import Commands
from worker.runner.compare import compare
from worker.runner.evaluate import evaluate
from worker.runner.export import export
from worker.runner.generate import generate
from worker.runner.lightning_setup import quiet, set_up_torch
from worker.runner.predict import predict
from worker.runner.preloaded import serve
from worker.runner.ranks import join, local_rank, number_of
from worker.runner.reasons import end_of, misses_a_rank
from worker.runner.reporter import Reporter
from worker.runner.task import Task
from worker.runner.train import train

#: What is done for each kind of job.
_WORK: Final[Mapping[type, Callable[[Task, Any], dict[str, Any]]]] = {
    TrainSpec: train,
    EvaluateSpec: evaluate,
    CompareSpec: compare,
    PredictSpec: predict,
    GenerateSpec: generate,
    ExportSpec: export,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m worker.runner", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("folder", type=Path, nargs="?", help="the attempt folder to run")
    what.add_argument("--catalog", action="store_true", help="print the catalogue as JSON")
    what.add_argument("--parent", action="store_true", help="fork runners for the worker on stdin")
    given = parser.parse_args(arguments)
    if given.catalog or given.parent:
        print_catalog() if given.catalog else serve(main)
        return 0
    folder = AttemptFolder(given.folder.resolve())
    if not folder.spec_file.is_file():
        parser.error(f"{given.folder} is no attempt folder: it holds no {folder.spec_file.name}")
    faulthandler.enable()
    faulthandler.register(STACKS_SIGNAL)
    number = local_rank()
    # The first rank alone is spoken to, and speaks for all.
    end = run(folder, Commands() if number else Commands.inherited(), number)
    return int(number > 0 and end.reason not in {Reason.SUCCEEDED, Reason.PREEMPTED})


def print_catalog() -> None:
    """Print everything that can be built here as one JSON object."""
    catalog, broken = whole_catalog()
    for line in broken:
        sys.stderr.write(f"{line}\n")
    sys.stdout.write(json.dumps(catalog.to_dict(), ensure_ascii=False) + "\n")


def run(folder: AttemptFolder, commands: Commands, number: int = 0) -> EndEvent:
    """Run a rank of the attempt, and return the event with which it ended.

    The folder then holds it, unless the rank only ended because it misses another.
    """
    with Reporter(folder, rank=number) as reporter, commands.listening():
        try:
            try:
                result = _work(folder, reporter, commands)
            finally:
                commands.settle()
            end = EndEvent(Reason.SUCCEEDED, result=result)
        except BaseException as error:
            end = end_of(error)
            if misses_a_rank(error):
                if number:
                    return end
                end = first_bad_end(folder.events_of_others) or end
        reporter.end(replace(end, peak_gpu_memory=_peak_gpu_memory()))
    return end


def _work(folder: AttemptFolder, reporter: Reporter, commands: Commands) -> dict[str, Any]:
    quiet()
    attempt, spec = folder.read_attempt(), folder.read_spec()
    reporter.durable = not isinstance(spec, PredictSpec | GenerateSpec)
    task = Task(folder, attempt, reporter, commands, set_up_torch(attempt, number_of(attempt)))
    join(folder, attempt)
    if rank() > 0 and not isinstance(spec, TrainSpec | EvaluateSpec):
        return {}  # what is no training or scoring is done by one process
    return _WORK[type(spec)](task, spec)


def _peak_gpu_memory() -> int:
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0


def _leave(status: int) -> None:
    """End the process at once: tearing torch down takes seconds, and what counts is on the disk."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # a full disk
            stream.flush()
    os._exit(status)


if __name__ == "__main__":
    _leave(main())
