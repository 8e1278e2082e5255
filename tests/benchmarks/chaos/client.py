"""A client that submits one job when it is told to: `python client.py SPEC KEY`.

It says `ready` once everything is loaded, and waits for a line: who kills it a moment later hits it
in the middle of the submission. Redis is named by UNROLL_REDIS_URL.
"""

import json
import sys

from jobs import broker
from jobs.client import Client
from jobs.spec import spec_from_dict


def main() -> None:
    spec = spec_from_dict(json.loads(sys.argv[1]))
    with Client() as client:
        client.store.ping()
        assert broker.TASK, "what submitting imports late is loaded by now"
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        sys.stdin.readline()
        client.submit(spec, key=sys.argv[2])


if __name__ == "__main__":
    main()
