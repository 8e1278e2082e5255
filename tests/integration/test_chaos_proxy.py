"""The proxy of the proof under faults: it passes, holds up and cuts off what it is told to."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.benchmarks.chaos.proxy import Proxy
from tests.doubles.waiting import PATIENCE, eventually


@pytest.fixture
def proxy(redis_server: Any) -> Iterator[Proxy]:
    made = Proxy(Path(redis_server.url.removeprefix("unix://")))
    yield made
    made.close()


@pytest.fixture
def behind(proxy: Proxy) -> Iterator["redis.Redis"]:
    with redis.Redis.from_url(proxy.url, socket_timeout=0.3, retry=None) as client:
        yield client


def test_what_is_held_up_arrives_in_the_end(
    proxy: Proxy, behind: "redis.Redis", client: "redis.Redis"
) -> None:
    client.delete("proxy")
    assert behind.ping()
    proxy.hold()
    with pytest.raises(redis.TimeoutError):
        behind.incr("proxy")
    assert client.get("proxy") is None
    proxy.release()
    assert eventually(lambda: client.get("proxy")) == b"1", "its client had long given up"


def test_a_reply_is_cut_off_and_the_next_is_not(proxy: Proxy, behind: "redis.Redis") -> None:
    assert behind.ping()
    proxy.bite(1, 0.5)
    with pytest.raises(redis.ConnectionError):
        behind.ping()
    assert behind.ping()


def test_the_end_of_a_proxy_is_the_end_of_its_connections(redis_server: Any) -> None:
    proxy = Proxy(Path(redis_server.url.removeprefix("unix://")))
    with redis.Redis.from_url(proxy.url, socket_timeout=PATIENCE, retry=None) as behind:
        assert behind.ping()
        proxy.close()
        with pytest.raises(redis.ConnectionError):
            behind.ping()
