"""Log-mel energies: held to the textbook's formulas, written out as loops."""

import cmath
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules._errors import DataError
from datamodules._mel import Listening

SMALL = {"rate": 1000, "window": 20.0, "hop": 8.0, "mels": 4, "centred": False}


def energies_in_plain_loops(samples, listening):
    """What each frame's bands hold, number by number."""
    width, hop = listening.window_samples, listening.hop_samples
    points = 1
    while points < width:
        points *= 2
    count = 1
    while (count - 1) * hop + width < len(samples):
        count += 1
    mels = [
        place * 2595 * math.log10(1 + listening.rate / 2 / 700) / (listening.mels + 1)
        for place in range(listening.mels + 2)
    ]
    hertz = [700 * (10 ** (mel / 2595) - 1) for mel in mels]
    frames = []
    for frame in range(count):
        powers = []
        for k in range(points // 2 + 1):
            total = 0
            for n in range(width):
                place = frame * hop + n
                sample = float(samples[place]) if place < len(samples) else 0.0
                hann = 0.5 - 0.5 * math.cos(2 * math.pi * n / width)
                total += hann * sample * cmath.exp(-2j * math.pi * k * n / points)
            powers.append(abs(total) ** 2)
        bands = []
        for m in range(1, listening.mels + 1):
            energy = 1e-6
            for k, power in enumerate(powers):
                f = k * listening.rate / points
                if hertz[m - 1] < f <= hertz[m]:
                    energy += power * (f - hertz[m - 1]) / (hertz[m] - hertz[m - 1])
                elif hertz[m] < f < hertz[m + 1]:
                    energy += power * (hertz[m + 1] - f) / (hertz[m + 1] - hertz[m])
            bands.append(math.log(energy))
        frames.append(bands)
    return frames


def slopes_in_plain_loops(frames):
    last = len(frames) - 1
    return [
        [
            sum(
                j * (frames[min(t + j, last)][m] - frames[max(t - j, 0)][m]) / (2 * (1 + 4))
                for j in (1, 2)
            )
            for m in range(len(frames[0]))
        ]
        for t in range(len(frames))
    ]


def sound(length, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, length).astype(np.float32)


@settings(max_examples=25, deadline=None)
@given(length=st.integers(1, 90), seed=st.integers(0, 9))
def test_frames_are_those_of_the_formulas(length, seed):
    samples, listening = sound(length, seed), Listening(**SMALL)
    expected = energies_in_plain_loops(samples, listening)
    np.testing.assert_allclose(listening(samples), expected, rtol=1e-5, atol=1e-5)


def test_centred_bands_have_no_mean_and_do_not_hear_how_loud_it_is():
    samples, listening = sound(80), Listening(**{**SMALL, "centred": True})
    plain = np.array(energies_in_plain_loops(samples, listening))
    np.testing.assert_allclose(listening(samples), plain - plain.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(listening(3 * samples), listening(samples), atol=1e-4)


@pytest.mark.parametrize("length", [1, 30, 70])
def test_slopes_stand_beside_the_energies_and_their_slopes_beside_them(length):
    samples = sound(length)
    plain = energies_in_plain_loops(samples, Listening(**SMALL))
    once = slopes_in_plain_loops(plain)
    expected = np.concatenate([plain, once, slopes_in_plain_loops(once)], axis=1)
    found = Listening(**SMALL, deltas=True)(samples)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@given(length=st.integers(1, 200), stack=st.integers(1, 5))
def test_stacked_frames_are_the_same_side_by_side(length, stack):
    plain = Listening(**SMALL)(sound(length))
    listening = Listening(**SMALL, stack=stack)
    stacked = listening(sound(length))
    assert stacked.shape == (-(-len(plain) // stack), listening.size)
    assert len(stacked) == listening.length(length)
    flat = stacked.reshape(-1, 4)
    assert np.array_equal(flat[: len(plain)], plain)
    assert (flat[len(plain) :] == plain[-1]).all()


def test_silence_has_finite_energies():
    frames = Listening(rate=8000, centred=False)(np.zeros(8000))
    assert np.array_equal(frames, np.full((99, 40), np.log(1e-6), np.float32))


def test_a_tone_is_heard_in_the_band_of_its_pitch():
    listening = Listening(rate=8000, centred=False)
    tone = np.sin(2 * np.pi * 1000 * np.arange(8000) / 8000)
    loudest = int(listening(tone).mean(axis=0).argmax())
    peak = 700 * (10 ** ((loudest + 1) * 2595 * math.log10(1 + 4000 / 700) / 41 / 2595) - 1)
    assert abs(peak - 1000) < 60


def test_the_state_is_enough_to_hear_the_same():
    listening = Listening(rate=8000, deltas=True, stack=3)
    again = Listening(**listening.state())
    assert np.array_equal(again(sound(900)), listening(sound(900)))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"mels": 200}, "too many"),
        ({"window": 0.1}, "too few samples"),
        ({"hop": 0.01}, "too few samples"),
    ],
)
def test_what_gives_no_frames_is_refused(settings, sentence):
    with pytest.raises(DataError, match=sentence):
        Listening(rate=8000, **settings)
