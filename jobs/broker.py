"""The bell: Celery carries "queue X has work" to its workers, and nothing else.

A ring that is lost, late or doubled is harmless, because the record store is the truth and a worker
with a free slot also looks by itself. Hence: early acknowledgement, no result backend, no events,
JSON only. Prefetch is off, so that no worker hoards rings that it cannot follow; sockets time out,
so that a frozen Redis blocks nobody for ever. `visibility_timeout` plays no part: a ring is
acknowledged when it arrives, and a lost one need not come back.
"""

import base64
import json
import logging
import uuid
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs, quote, urlencode, urlsplit

from jobs.connection import CONNECT_TIMEOUT, SOCKET_TIMEOUT
from jobs.errors import ServiceUnreachable
from jobs.keys import Keys
from jobs.store.submitting import Submitter

if TYPE_CHECKING:
    from celery import Celery

#: Name of the one task: take jobs of a queue until none fits.
TASK: Final = "unroll.take"

_log = logging.getLogger(__name__)


def broker_url(url: str) -> str:
    """Return a Redis URL as kombu spells it; a unix socket's differs, and TLS must say its rule."""
    if url.startswith("rediss://"):
        return url if "ssl_cert_reqs=" in url else _with_option(url, "ssl_cert_reqs=required")
    if not url.startswith("unix://"):
        return url
    parts = urlsplit(url)
    options = parse_qs(parts.query)
    database = options.pop("db", ["0"])[0]
    user = parts.username or options.pop("username", [""])[0]
    password = parts.password or options.pop("password", [""])[0]
    login = f"{quote(user, safe='')}:{quote(password, safe='')}@" if password else ""
    return f"redis+socket://{login}{parts.path}?{urlencode({'virtual_host': database})}"


def _with_option(url: str, option: str) -> str:
    return f"{url}{'&' if '?' in url else '?'}{option}"


def celery_settings(url: str, namespace: str = "default") -> dict[str, Any]:
    """Return Celery's configuration."""
    transport: dict[str, Any] = {
        "global_keyprefix": Keys(namespace).celery,
        "socket_timeout": SOCKET_TIMEOUT * 2,
        "socket_connect_timeout": CONNECT_TIMEOUT,
        "socket_keepalive": True,
    }
    return {
        "broker_url": broker_url(url),
        "broker_transport_options": transport,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_connection_timeout": CONNECT_TIMEOUT,
        "worker_disable_prefetch": True,
        "worker_prefetch_multiplier": 1,
        # With the option below on, Celery 5.7 can lose a task when Redis goes away.
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_hijack_root_logger": False,
        "worker_send_task_events": False,
        # Who may ring may not tell workers to shut down; and each would leave a queue behind.
        "worker_enable_remote_control": False,
        "task_acks_late": False,
        "task_ignore_result": True,
        "result_backend": None,
        "task_create_missing_queues": True,
        "task_serializer": "json",
        "accept_content": ["json"],
        "enable_utc": True,
    }


def make_app(url: str, namespace: str = "default") -> "Celery":
    """Return the Celery application; a queue of Celery is a `resources.queue` by name."""
    from celery import Celery  # noqa: PLC0415 - a fifth of a second that only hearing needs

    app = Celery("unroll", set_as_current=False)
    app.config_from_object(celery_settings(url, namespace))
    return app


def ring(queue: str, store: Submitter) -> None:
    """Tell the workers of a queue that there is work, unless it was just told.

    That nobody can be told is no error: the job is found without it.
    """
    try:
        if store.bell(queue):
            store.hang_bell(queue, message(queue))
    except ServiceUnreachable as error:
        _log.debug("no bell for queue %r: %s", queue, error)


def message(queue: str) -> str:
    """Return a ring as Celery's protocol 2 has it in Redis, of which importing Celery is no part.

    https://docs.celeryq.dev/en/stable/internals/protocol.html
    """
    task = str(uuid.uuid4())
    embedded = dict.fromkeys(("callbacks", "errbacks", "chain", "chord"))
    body = json.dumps([[queue], {}, embedded]).encode()
    headers = {
        "lang": "py",
        "task": TASK,
        "id": task,
        "root_id": task,
        "parent_id": None,
        "group": None,
        "retries": 0,
        "eta": None,
        "expires": None,
        "timelimit": [None, None],
        "argsrepr": repr((queue,)),
        "kwargsrepr": "{}",
        "ignore_result": True,
    }
    properties = {
        "correlation_id": task,
        "delivery_mode": 2,
        "delivery_tag": str(uuid.uuid4()),
        "delivery_info": {"exchange": "", "routing_key": queue},
        "priority": 0,
        "body_encoding": "base64",
    }
    return json.dumps(
        {
            "body": base64.b64encode(body).decode(),
            "headers": headers,
            "content-type": "application/json",
            "content-encoding": "utf-8",
            "properties": properties,
        }
    )
