"""The one task that Celery carries: a bell that says a queue has work."""

from typing import TYPE_CHECKING

from jobs.broker import TASK
from worker.crew import Crew

if TYPE_CHECKING:
    from celery import Celery


def register(app: "Celery", crew: Crew) -> None:
    """Let the application's bell send the crew to work.

    The task supervises in its own thread, so that a worker whose slots are taken leaves the bells
    to others. An error of the service ends it: what is queued is found without a bell.
    """

    def take(_queue: str) -> None:
        crew.work()

    app.task(take, name=TASK, ignore_result=True)
