"""Find a runner that hangs: by the time since its last sign of life, measured with its own measure.

Every event of the first rank is a sign of life; where ranks wait for each other, it falls silent
with them. While a model is trained, what counts is steps: after the first one a supervisor knows
how long they usually take. Anything else, such as preparing a corpus, validating with a beam or
keeping a large checkpoint, has no measure of its own and gets a longer bound.
"""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from jobs.spec import Policy
from worker.events import (
    CheckpointEvent,
    EndEvent,
    Event,
    EventReader,
    MetricEvent,
    PhaseEvent,
    ProgressEvent,
)

#: What the runner calls the phase in which it takes steps.
TRAINING: Final = "training"
#: Of the time between two looks only so much counts, in seconds and as a share of the bound: where
#: the whole machine stood still, or who looks was held up by a slow disk, nothing could be heard.
_LOOK: Final = 2.0
_LOOK_SHARE: Final = 0.1
#: The weight of the newest pace in the usual one.
_NEWEST: Final = 0.1


class HangWatch:
    """Follow the events of one attempt; they are read from the folder, whoever relays them."""

    def __init__(
        self, events: Path, policy: Policy, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._reader = EventReader(events)
        self._policy = policy
        self._clock = clock
        self._phase = "starting"
        self._looked = clock()
        #: Seconds since the last sign of life, and since the last step or change of phase.
        self._silence = 0.0
        self._since_step = 0.0
        #: The newest step; None before the first word on it.
        self._step: int | None = None
        #: Seconds that a step takes; None before the first one of this attempt.
        self._usual: float | None = None
        self._over = False

    def look(self) -> str:
        """Return in one line what is wrong, or nothing while the runner may be alive."""
        now = self._clock()
        passed = min(now - self._looked, _LOOK, _LOOK_SHARE * self._bound)
        self._looked = now
        self._silence += passed
        self._since_step += passed
        with contextlib.suppress(ValueError):  # a line that is no event; the relay tells of it
            for event in self._reader.read():
                self._hear(event)
        if self._over or self._silence <= self._bound:
            return ""
        return self._describe()

    @property
    def _counts_steps(self) -> bool:
        return self._phase == TRAINING and self._usual is not None

    @property
    def _bound(self) -> float:
        if not self._counts_steps:
            return self._policy.quiet_seconds
        return max(self._policy.hang_seconds, self._policy.hang_factor * (self._usual or 0.0))

    def _hear(self, event: Event) -> None:
        self._silence = 0.0
        if isinstance(event, PhaseEvent):
            self._phase, self._since_step = event.phase, 0.0
        elif isinstance(event, EndEvent):
            self._over = True
        elif isinstance(event, ProgressEvent | MetricEvent | CheckpointEvent):
            self._advance(event.step)

    def _advance(self, step: int) -> None:
        if self._step is not None and step <= self._step:
            return
        if self._step is not None and self._phase == TRAINING:
            pace = self._since_step / (step - self._step)
            usual = pace if self._usual is None else self._usual
            self._usual = usual + _NEWEST * (pace - usual)
        self._step, self._since_step = step, 0.0

    def _describe(self) -> str:
        if self._counts_steps:
            usual = f"a step usually takes {self._usual:.2g} s"
            return f"no step for {self._silence:.0f} s after step {self._step}; {usual}"
        return f"no sign of life for {self._silence:.0f} s while {self._phase}"
