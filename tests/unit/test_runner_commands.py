"""Commands and signals: what waits for a batch, what takes effect at once."""

import json
import os
import signal
import socket
import time
from collections.abc import Iterator

import pytest

from worker.runner.commands import Commands
from worker.runner.reasons import Preempted


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, Commands]]:
    ours, theirs = socket.socketpair()
    ours.settimeout(10)
    with ours, theirs:
        yield ours, Commands(theirs)


def send(channel: socket.socket, command: str) -> None:
    channel.sendall(json.dumps({"command": command}).encode() + b"\n")


def receive(channel: socket.socket) -> object:
    return json.loads(channel.recv(4096))


def wait_until_told(commands: Commands) -> None:
    deadline = time.monotonic() + 10
    while not (commands.wants_stop or commands.wants_checkpoint):
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_outside_of_training_a_stop_takes_effect_at_once(
    pair: tuple[socket.socket, Commands],
) -> None:
    ours, commands = pair

    def ask_and_wait() -> None:
        send(ours, "stop")
        time.sleep(10)

    with commands.listening(), pytest.raises(Preempted):
        ask_and_wait()
    assert receive(ours) == {"reply": "stop"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_while_training_a_signal_waits_for_the_batch(number: signal.Signals) -> None:
    commands = Commands()
    with commands.listening():
        commands.wait_for_batches()
        os.kill(os.getpid(), number)
        wait_until_told(commands)
        with pytest.raises(Preempted):
            commands.check()


def test_a_checkpoint_is_answered_when_it_was_taken(pair: tuple[socket.socket, Commands]) -> None:
    ours, commands = pair
    with commands.listening():
        commands.wait_for_batches()
        send(ours, "checkpoint")
        wait_until_told(commands)
        commands.took_checkpoint("step-00000007.ckpt")
        assert receive(ours) == {"reply": "checkpoint", "file": "step-00000007.ckpt"}
        assert not commands.wants_checkpoint


def test_where_there_is_nothing_to_save_the_answer_is_none(
    pair: tuple[socket.socket, Commands],
) -> None:
    ours, commands = pair
    with commands.listening():
        send(ours, "checkpoint")
        assert receive(ours) == {"reply": "checkpoint", "file": None}


@pytest.mark.parametrize("line", ["jump", "no json", '{"command": 3}', "[]"])
def test_what_is_no_command_is_refused(pair: tuple[socket.socket, Commands], line: str) -> None:
    ours, commands = pair
    with commands.listening():
        ours.sendall(line.encode() + b"\n")
        reply = receive(ours)
    assert isinstance(reply, dict)
    assert reply["reply"] == "refused"


def test_what_is_settled_is_not_interrupted() -> None:
    commands = Commands()
    with commands.listening():
        commands.settle()
        os.kill(os.getpid(), signal.SIGTERM)
        wait_until_told(commands)


def test_the_signal_handlers_of_before_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Commands().listening():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_supervisor_that_is_gone_is_not_missed(pair: tuple[socket.socket, Commands]) -> None:
    ours, commands = pair
    with commands.listening():
        commands.wait_for_batches()
        send(ours, "checkpoint")
        wait_until_told(commands)
        ours.close()
        commands.took_checkpoint("a")
        commands.took_checkpoint("b")
