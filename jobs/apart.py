"""Steps of many, each done apart from the others."""

import logging
from collections.abc import Callable

from jobs.errors import ServiceUnreachable

logger = logging.getLogger(__name__)


def apart(name: str, step: Callable[[], object]) -> None:
    """Do a step for one of many so that its failure is no other's. Raise ServiceUnreachable."""
    try:
        step()
    except ServiceUnreachable:
        raise
    except Exception:
        logger.exception("%s: a step failed and will be tried again", name)
