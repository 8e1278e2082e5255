"""Whole workers with quick clocks and a runner without torch."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

from jobs.store import JobStore
from tests.doubles.waiting import eventually

WORKER = Path(__file__).with_name("worker.py")


class Workers:
    """Start workers that share a home, and leave nothing behind."""

    def __init__(self, home: Path, url: str, store: JobStore) -> None:
        self.home = home
        self._url = url
        self.store = store
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self, name: str = "one", **told: Any) -> "subprocess.Popen[bytes]":
        told = {"home": str(self.home), "name": name, **told}
        told["namespace"] = self.store.keys.namespace
        log = (self.home.parent / f"{name}.log").open("ab")
        with log:
            process = subprocess.Popen(
                [sys.executable, "-P", str(WORKER), json.dumps(told)],
                env={**os.environ, "UNROLL_REDIS_URL": self._url},
                stdout=log,
                stderr=log,
            )
        self._started.append(process)
        return process

    def log(self, name: str = "one") -> str:
        return (self.home.parent / f"{name}.log").read_text()

    def runners(self) -> list[psutil.Process]:
        """Return every process, guards too, that belongs to an attempt in the home."""
        found = []
        for process in psutil.process_iter():
            try:
                if Path(process.cwd()).is_relative_to(self.home):
                    found.append(process)
            except (psutil.Error, OSError):
                continue
        return found

    def clear(self) -> None:
        for process in self._started:
            process.kill()
            process.wait()
        eventually(lambda: not self.runners())
