"""A runner without torch, for tests of the supervising half: `python runner.py FOLDER`.

With `--parent` it is a preloaded parent, whose runners do the same.

It follows the protocol of the attempt folder, and does what the model's parameters say:

    steps, step_seconds     how long it trains
    checkpoint_every        steps between checkpoints
    fail                    "segfault", "exit", "error", "linger", "rank": how it ends
    fail_at, fail_attempt   at which step, and in which attempt only (0: in all)
    hang_at                 after which step it takes no other, in the same attempts
    children                processes that it starts and leaves behind, in sessions of their own
    burn                    processes that it starts and that use a core each
    deaf                    whether it ignores what the supervisor asks for
    say                     a line for its standard error
    say_bytes               length of another line, before that
    file                    content of a result file
"""

import faulthandler
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jobs.job import Reason
from jobs.spec import TrainSpec
from worker import forking, guard
from worker.events import (
    CheckpointEvent,
    EndEvent,
    Event,
    EventReader,
    MetricEvent,
    PhaseEvent,
    ProgressEvent,
)
from worker.folder import AttemptFolder, write_atomically


class Runner:
    def __init__(self, path: Path) -> None:
        self.folder = AttemptFolder(path)
        self.attempt = self.folder.read_attempt()
        spec = self.folder.read_spec()
        self.params: dict[str, Any] = dict(spec.model.params) if isinstance(spec, TrainSpec) else {}
        self.commands = socket.socket(fileno=int(os.environ["UNROLL_COMMANDS_FD"]))
        self.commands.setblocking(False)

    def tell(self, event: Event) -> None:
        with self.folder.events_file.open("a") as file:
            file.write(event.to_json() + "\n")

    def run(self) -> None:
        self.tell(PhaseEvent("training"))
        if length := self.params.get("say_bytes"):
            sys.stderr.write("x" * length + "\n")
        if line := self.params.get("say"):
            sys.stderr.write(f"{line}\n")
        bear(self.params)
        steps = self.params.get("steps", 3)
        start = self.read_start()
        for step in range(start + 1, steps + 1):
            self.train(step, steps)
            if self.is_told_to_stop():
                self.save(step)
                self.tell(EndEvent(Reason.PREEMPTED, "told to stop"))
                return
        if content := self.params.get("file"):
            (self.folder.files / "result.txt").write_text(content)
        result = {"val/loss": 0.5, "started_at": start, "trained": self.attempt.trained}
        self.tell(EndEvent(Reason.SUCCEEDED, result=result))

    def read_start(self) -> int:
        if self.attempt.checkpoint is None:
            return 0
        return int(json.loads(Path(self.attempt.checkpoint).read_text())["step"])

    def train(self, step: int, steps: int) -> None:
        time.sleep(self.params.get("step_seconds", 0.0))
        self.tell(MetricEvent("train/loss", 1 / step, step, 1, time.time()))
        self.tell(ProgressEvent(step, steps, 1, 1))
        if step % self.params.get("checkpoint_every", steps + 1) == 0:
            self.save(step)
        if self.params.get("fail_attempt", 0) not in (0, self.attempt.attempt):
            return
        if step == self.params.get("hang_at"):
            time.sleep(600)
        if step == self.params.get("fail_at"):
            self.fail(self.params["fail"])

    def save(self, step: int) -> None:
        content = json.dumps({"step": step}).encode()
        name = f"step-{step:08d}.ckpt"
        write_atomically(self.folder.checkpoints / name, content)
        digest = hashlib.sha256(content).hexdigest()
        self.tell(CheckpointEvent(name, digest, step, 1, score=float(step), best=step % 2 == 0))

    def fail(self, how: str) -> None:
        sys.stderr.write(f"about to fail: {how}\n")
        if how == "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        elif how == "exit":
            os._exit(7)
        elif how == "linger":
            self.tell(EndEvent(Reason.SUCCEEDED))
            time.sleep(600)
        elif how == "rank":
            with self.folder.events_of(1).open("a") as file:
                file.write(EndEvent(Reason.BAD_DATA, "told by rank 1").to_json() + "\n")
            os._exit(7)
        elif how == "error":
            message = self.params.get("message", "no such thing")
            self.tell(EndEvent(Reason.USER_ERROR, message, "Traceback: here"))
            sys.exit(0)

    def is_told_to_stop(self) -> bool:
        try:
            said = self.commands.recv(4096)
        except BlockingIOError:
            return False
        if self.params.get("deaf") or b"stop" not in said:
            return False
        self.commands.send(b'{"reply": "stop"}\n')
        return True


def bear(params: Mapping[str, Any]) -> None:
    for _ in range(params.get("children", 0)):
        subprocess.Popen(["sleep", "600"], start_new_session=True)
    for _ in range(params.get("burn", 0)):
        subprocess.Popen([sys.executable, "-I", "-S", "-c", "while True: pass"])


def accompany(folder: AttemptFolder) -> None:
    """Be another rank than the first: have children, and end when that does."""
    spec = folder.read_spec()
    bear(spec.model.params if isinstance(spec, TrainSpec) else {})
    reader = EventReader(folder.events_file)
    while not any(isinstance(each, EndEvent) for each in reader.read()):
        time.sleep(0.02)


def main(arguments: Sequence[str]) -> int:
    faulthandler.register(guard.STACKS_SIGNAL)
    if int(os.environ.get("LOCAL_RANK", "0")):
        accompany(AttemptFolder(Path(arguments[0])))
    else:
        Runner(Path(arguments[0])).run()
    return 0


if __name__ == "__main__":
    if sys.argv[1:] == ["--parent"]:
        forking.serve(main)
    else:
        sys.exit(main(sys.argv[1:]))
