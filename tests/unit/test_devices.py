"""What a worker hands out, and what it counts."""

import threading
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.errors import SetupError
from jobs.spec import Resources
from worker.devices import Devices, Share, _allowed, count_cores

IDS = ["GPU-aa11", "GPU-ab22", "GPU-bb33"]


@given(
    st.integers(1, 6),
    st.integers(0, 5),
    st.lists(st.none() | st.integers(0, 5), max_size=12),
    st.randoms(use_true_random=False),
)
def test_nothing_is_given_twice_and_everything_comes_back(
    slots: int, gpus: int, wishes: list[int | None], random: Random
) -> None:
    devices = Devices(slots, range(gpus), cores=8)
    held: list[Share] = []
    for wish in wishes:
        count = min(1, gpus) if wish is None else wish
        if held and random.random() < 0.4:
            devices.give_back(held.pop(random.randrange(len(held))))
        if devices.free_slots and devices.free_gpus >= count:
            held.append(devices.take(Resources(gpus=wish)))
            assert len(held[-1].gpus) == count
        else:
            with pytest.raises(SetupError, match="asked for"):
                devices.take(Resources(gpus=wish))
        given_out = [gpu for share in held for gpu in share.gpus]
        assert len(set(given_out)) == len(given_out)
        assert devices.free_gpus == gpus - len(given_out)
        assert devices.free_slots == slots - len(held)
    for share in held:
        devices.give_back(share)
    assert (devices.free_slots, devices.free_gpus) == (slots, gpus)


@pytest.mark.parametrize(
    ("slots", "gpus", "wanted", "processes", "threads"),
    [
        (1, 0, Resources(), 1, 8),
        (3, 0, Resources(), 1, 2),
        (16, 0, Resources(), 1, 1),
        (1, 0, Resources(devices=2), 2, 4),
        (1, 0, Resources(threads=5), 1, 5),
        (1, 4, Resources(), 1, 8),
        (1, 4, Resources(gpus=2), 2, 4),
        (1, 4, Resources(gpus=0, devices=4), 4, 2),
    ],
)
def test_processes_share_the_threads_of_a_slot(
    slots: int, gpus: int, wanted: Resources, processes: int, threads: int
) -> None:
    share = Devices(slots, range(gpus), cores=8).take(wanted)
    assert (share.processes, share.threads) == (processes, threads)


def test_an_answer_takes_a_slot_of_its_own_before_any_other() -> None:
    devices = Devices(1, cores=8, answer_slots=1)
    answer = devices.take(Resources(), answers=True)
    assert (devices.free_slots, devices.free_answer_slots) == (1, 0)
    training = devices.take(Resources())
    assert (answer.threads, training.threads) == (4, 8)
    with pytest.raises(SetupError, match="asked for"):
        devices.take(Resources(), answers=True)
    devices.give_back(training)
    second = devices.take(Resources(), answers=True)
    assert (devices.free_slots, devices.free_answer_slots) == (0, 0)
    devices.give_back(second)
    assert (devices.free_slots, devices.free_answer_slots) == (1, 0)
    devices.give_back(answer)
    assert (devices.free_slots, devices.free_answer_slots) == (1, 1)


def test_a_training_takes_no_slot_of_answers() -> None:
    devices = Devices(1, answer_slots=2)
    devices.take(Resources())
    with pytest.raises(SetupError, match="asked for"):
        devices.take(Resources())


def test_threads_that_take_at_once_get_different_devices() -> None:
    devices, got = Devices(8, range(8)), []
    go = threading.Barrier(8)

    def take() -> None:
        go.wait()
        got.append(devices.take(Resources(gpus=1)).gpus)

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == [(index,) for index in range(8)]


@pytest.mark.parametrize(
    ("visible", "found"),
    [
        (None, (0, 1, 2)),
        ("", ()),
        ("2,0", (2, 0)),
        ("GPU-bb33,1", (2, 1)),
        ("GPU-b", (2,)),
        ("GPU-a", ()),  # two begin so
        ("1,7,0", (1,)),  # CUDA stops at what it does not know
        ("-1", ()),
        ("none", ()),
    ],
)
def test_only_the_gpus_that_this_process_may_see_are_given(
    visible: str | None, found: tuple[int, ...]
) -> None:
    assert _allowed(IDS, visible) == found


def test_there_is_at_least_one_core() -> None:
    assert count_cores() >= 1
