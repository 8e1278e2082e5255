"""Sound as frames of log-mel energies, what speech recognisers read (Davis & Mermelstein 1980).

A frame is `window` samples x under a Hann window w, the next begins `hop` samples later:

    P_k = |Σ_n w_n x_n exp(-2πi kn / K)|²                   K the power of two from `window` up
    E_m = log(floor + Σ_k H_mk P_k)

H_m are triangles whose feet are the peaks of their neighbours; the peaks lie equally far apart
between 0 Hz and half the rate on the mel scale, mel(f) = 2595 log10(1 + f / 700) (O'Shaughnessy
1987). Centred, each band has mean 0 over the recording, so that what a microphone, a room or a
voice adds to all of it is not heard (Atal 1974, of the cepstrum, a linear map of E). Deltas are
slopes over two frames on either side, their deltas those of the slopes (Young et al., The HTK Book,
5.9):

    d_t = Σ_j j (E_{t+j} - E_{t-j}) / (2 Σ_j j²)            j = 1, 2; outside, the nearest frame

Shapes: N samples, T frames, W samples of a frame, K points of the transform, M mels, F numbers of a
frame as it is given to a model.
"""

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from datamodules._errors import DataError

#: Added to each energy before its logarithm: some -60 dB below a loud vowel.
_FLOOR: Final = 1e-6
#: Frames on either side that a slope is taken over.
_REACH: Final = 2

Frames = NDArray[np.float32]


@dataclass(frozen=True)
class Listening:
    """Say how sound becomes frames. Plain values, so that checkpoints hold it."""

    #: Samples a second.
    rate: int
    #: Length of a frame, and from the beginning of one to that of the next, in milliseconds.
    window: float = 25.0
    hop: float = 10.0
    mels: int = 40
    #: Whether the mean of each band over the recording is taken off.
    centred: bool = True
    #: Whether a frame also holds its slopes and theirs.
    deltas: bool = False
    #: How many frames side by side make one.
    stack: int = 1

    def __post_init__(self) -> None:
        """Refuse what gives no frames. Raise DataError."""
        if self.window_samples < 2 or self.hop_samples < 1:
            raise DataError(
                f"a 'window' of {self.window:g} ms and a 'hop' of {self.hop:g} ms hold too few"
                f" samples at {self.rate} a second: make them longer"
            )
        if not self.filters.any(axis=0).all():
            raise DataError(
                f"'mels' = {self.mels} are too many for a 'window' of {self.window:g} ms at"
                f" {self.rate} samples a second: some would never hear anything; take fewer, or"
                " a longer window"
            )

    @property
    def window_samples(self) -> int:
        """W."""
        return round(self.window * self.rate / 1000)

    @property
    def hop_samples(self) -> int:
        """How many samples after the last a frame begins."""
        return round(self.hop * self.rate / 1000)

    @property
    def size(self) -> int:
        """F."""
        return self.mels * (3 if self.deltas else 1) * self.stack

    def length(self, samples: int) -> int:
        """Return how many frames a recording of so many samples has."""
        return -(-self._count(samples) // self.stack)

    def _count(self, samples: int) -> int:
        """Return how many frames there are before they are stacked: enough for all samples."""
        return 1 + max(0, -(-(samples - self.window_samples) // self.hop_samples))

    @cached_property
    def filters(self) -> NDArray[np.float64]:
        """The triangles H (K / 2 + 1, M)."""
        points = 1 << (self.window_samples - 1).bit_length()  # K
        heard = np.arange(points // 2 + 1) * self.rate / points  # Hz of each k
        feet = _hertz(np.linspace(0, _mel(self.rate / 2), self.mels + 2))
        low, peak, high = feet[:-2], feet[1:-1], feet[2:]  # (M,) each
        rising = (heard[:, None] - low) / (peak - low)
        falling = (high - heard[:, None]) / (high - peak)
        return np.maximum(0, np.minimum(rising, falling))

    def __call__(self, samples: NDArray[np.floating]) -> Frames:
        """Return the frames of a recording (N,), float32 (T, F); T is at least 1.

        Behind the last sample there is silence, so that each sample is in a frame.
        """
        energies = np.log(_FLOOR + self._powers(samples) @ self.filters)  # (T, M)
        if self.centred:
            energies -= energies.mean(axis=0)
        if self.deltas:
            slopes = _slopes(energies)
            energies = np.concatenate([energies, slopes, _slopes(slopes)], axis=1)
        return _stacked(energies, self.stack).astype(np.float32)

    def _powers(self, samples: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return P of every frame (T, K / 2 + 1)."""
        window, hop = self.window_samples, self.hop_samples
        padded = np.zeros((self._count(len(samples)) - 1) * hop + window)
        # With a hop above the window the samples between two frames are in none.
        padded[: len(samples)] = samples[: len(padded)]
        frames = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop]
        hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
        points = 2 * (len(self.filters) - 1)
        return np.abs(np.fft.rfft(frames * hann, points)) ** 2

    def state(self) -> dict[str, Any]:
        """Return the settings as plain values; `Listening(**state)` undoes it."""
        return asdict(self)


def _mel(hertz: float) -> float:
    return float(2595 * np.log10(1 + hertz / 700))


def _hertz(mels: NDArray[np.float64]) -> NDArray[np.float64]:
    return 700 * (10 ** (mels / 2595) - 1)


def _slopes(energies: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return d (T, M)."""
    padded = np.pad(energies, ((_REACH, _REACH), (0, 0)), mode="edge")
    end = len(padded) - _REACH
    slopes = np.zeros_like(energies)
    for reach in range(1, _REACH + 1):
        slopes += reach * (
            padded[_REACH + reach : end + reach] - padded[_REACH - reach : -_REACH - reach]
        )
    return slopes / (2 * sum(reach * reach for reach in range(1, _REACH + 1)))


def _stacked(frames: NDArray[np.float64], stack: int) -> NDArray[np.float64]:
    """Return each `stack` frames as one; the last is repeated where some are missing."""
    missing = -len(frames) % stack
    whole = np.pad(frames, ((0, missing), (0, 0)), mode="edge")
    return whole.reshape(len(whole) // stack, -1)
