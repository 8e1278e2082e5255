"""Fire what is due and move every generation on: the tick of all workers, without a leader."""

import logging
from functools import partial

from jobs.apart import apart
from jobs.artifacts import ArtifactStore
from jobs.firing import Firing, firings
from jobs.schedules import Generation
from jobs.store import JobStore
from jobs.store.scheduling import ScheduleStore, Standing
from worker.retraining import Retraining

logger = logging.getLogger(__name__)


class Scheduler:
    """Do the schedules' part of the housekeeping; each step may be done twice, by anyone."""

    def __init__(self, store: JobStore, artifacts: ArtifactStore | None = None) -> None:
        self._schedules = store.beside(ScheduleStore)
        self._retraining = Retraining(store, artifacts)

    def tick(self) -> None:
        """Fire due times, then move each open generation on. Raise ServiceUnreachable."""
        standings = self._schedules.list()
        for standing in standings:
            apart(f"schedule {standing.schedule.name}", partial(self._fire, standing))
        living = {(each.schedule.name, each.schedule.created) for each in standings}
        for generation in self._schedules.open():
            apart(f"schedule {generation.id}", partial(self._advance, generation, living))
        self._schedules.forget()

    def begin(self, standing: Standing, firing: Firing) -> bool:
        """Fire a schedule; return whether nobody else was faster. Raise ServiceUnreachable."""
        spec = self._retraining.spec_of(standing.schedule)
        stage = self._schedules.fire(standing, firing, spec)
        if stage is not None:
            logger.info("schedule %s: %s (%s)", standing.schedule.name, stage, firing.trigger)
        return stage is not None

    def _fire(self, standing: Standing) -> None:
        if standing.asked is not None:
            asked = str(standing.asked)
            self.begin(standing, Firing(trigger="asked", seen=asked, moment=standing.asked))
        if standing.due is None:
            return
        for firing in firings(standing.schedule, standing.due, self._schedules.now()):
            if not self.begin(standing, firing):
                return

    def _advance(self, generation: Generation, living: set[tuple[str, int]]) -> None:
        if (generation.schedule, generation.definition["created"]) in living:
            self._retraining.advance(generation)
        elif self._schedules.was_removed(generation):
            self._retraining.withdraw(generation, "its schedule was removed")
