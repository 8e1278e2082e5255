"""The record store: what a job is, from submission to its end, as atomic transitions in Redis.

JobStore has three sides, one for each role that Redis ACLs can tell apart:

    Submitter   create, cancel, pause, resume, retry, remove, bell      jobs/store/submitting.py
    Looker      get, list, resolve, why, metrics, logs, files, ...      jobs/store/looking.py
    Holder      announce, acquire, renew, report, finish, sweep, ...    jobs/store/holding.py

All methods raise ServiceUnreachable where Redis does not answer.
"""

from jobs.store.base import new_nonce
from jobs.store.holding import Holder, Sweep
from jobs.store.scripts import Clock
from jobs.store.submitting import Submitter

__all__ = ["Clock", "JobStore", "Sweep", "new_nonce"]


class JobStore(Submitter, Holder):
    """Keep the jobs of one namespace.

    `clock` (milliseconds) stands in for Redis server time in tests; all stores of a namespace must
    then share it.
    """
