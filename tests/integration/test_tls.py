"""Redis behind TLS with an authority of one's own: the store, the bell, and who is not trusted."""

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Queue
from typing import Any
from urllib.parse import quote

import pytest
from celery.contrib.testing.worker import start_worker

from jobs.broker import TASK, make_app, ring
from jobs.connection import connect
from jobs.errors import ServiceUnreachable
from jobs.spec import Component, TrainSpec
from jobs.store import JobStore
from tests.doubles.tls import Certificates, Door

SPEC = TrainSpec(model=Component("m"), data=Component("d"))
#: Every character that a URL has a meaning for.
PASSWORD = "p/a?s#s@w:o%r d&=+"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("tls") / "certificates")


@pytest.fixture
def address(make_server: Callable[..., Any], certificates: Certificates) -> Iterator[str]:
    """Return where TLS is spoken: by the server itself, or by a door before one that cannot."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    files = ("--tls-cert-file", str(certificates.certificate), "--tls-key-file")
    options = ("--tls-port", str(port), "--bind", "127.0.0.1", *files, str(certificates.key))
    try:
        make_server(*options, "--tls-auth-clients", "no", password=PASSWORD)
    except AssertionError:  # it ended at once, as one does that was built without
        door = Door(certificates, make_server(password=PASSWORD).url.removeprefix("unix://"))
        yield f"127.0.0.1:{door.port}"
        door.close()
    else:
        yield f"127.0.0.1:{port}"


def url_of(address: str, authority: Path | None) -> str:
    trust = f"?ssl_ca_certs={authority}" if authority else ""
    return f"rediss://:{quote(PASSWORD, safe='')}@{address}/0{trust}"


def test_jobs_and_bells_travel_by_tls(address: str, certificates: Certificates) -> None:
    url = url_of(address, certificates.authority)
    with connect(url) as client:
        store = JobStore(client)
        job = store.create(SPEC)
        assert store.get(job.id) == job
        app = make_app(url)
        heard: Queue[str] = Queue()
        app.task(name=TASK, shared=False)(heard.put)
        ring("default", store)
        options = {"pool": "threads", "concurrency": 1, "perform_ping_check": False}
        with start_worker(app, queues=["default"], **options):
            assert heard.get(timeout=20) == "default"


def test_a_certificate_that_nobody_vouches_for_is_one_line_with_the_mend(address: str) -> None:
    with connect(url_of(address, None)) as client, pytest.raises(ServiceUnreachable) as caught:
        JobStore(client).list()
    said = str(caught.value)
    assert "the service's certificate is not trusted" in said
    assert "ssl_ca_certs=FILE" in said
    assert "\n" not in said
    assert "p/a" not in said


def test_who_speaks_no_tls_is_not_answered(address: str) -> None:
    url = f"redis://:{quote(PASSWORD, safe='')}@{address}/0"
    with connect(url) as client, pytest.raises(ServiceUnreachable) as caught:
        JobStore(client).list()
    assert "\n" not in str(caught.value)
