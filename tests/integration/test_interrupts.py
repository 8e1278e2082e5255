"""Ctrl-C while the command is still being imported: an end without a word."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: What the console script does; it says when it first looks after signals itself.
COMMAND = """
import signal, sys
from jobs.start import main
plain = signal.signal
def tell(*given):
    before = plain(*given)
    signal.signal = plain
    print("begun", flush=True)
    return before
signal.signal = tell
sys.exit(main())
"""


@pytest.mark.parametrize("seed", range(6))
def test_an_early_interrupt_ends_the_command_without_a_word(seed: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, "catalog", "--help"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    time.sleep(random.Random(seed).uniform(0.0, 0.1))
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert "Traceback" not in said
    # It was over before, or the interpreter had let go of its handlers: the same to a shell.
    assert process.returncode in (130, 0, -signal.SIGINT), said


def test_what_is_interrupted_while_it_is_imported_ends_as_a_shell_expects() -> None:
    # The verbs' module never comes to its end, so that the signal cannot come too late.
    code = (
        "import sys, time, types\n"
        "class Slow:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'jobs.cli':\n"
        "            print('importing', flush=True)\n"
        "            time.sleep(60)\n"
        "sys.meta_path.insert(0, Slow())\n"
        "from jobs.start import main\n"
        "sys.exit(main())"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60)[1] == ""
    assert process.returncode == 130
