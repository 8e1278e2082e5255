"""Where the service is, and the one line that says what is wrong with reaching it."""

from pathlib import Path

import pytest
import redis

from jobs.broker import broker_url, celery_settings
from jobs.connection import address, connect, default_home, reaching, redis_url, shown
from jobs.errors import ServiceUnreachable, SetupError, SpecError
from jobs.keys import KEYS, Keys
from jobs.store.submitting import new_id


def test_the_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    monkeypatch.delenv("UNROLL_HOME", raising=False)
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    assert default_home() == Path("/home/ann/.local/share/unroll")
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert default_home() == Path("/data/unroll")
    monkeypatch.setenv("UNROLL_HOME", "~/here")
    assert default_home() == Path("/home/ann/here")


def test_the_address(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("UNROLL_REDIS_URL", raising=False)
    with pytest.raises(ServiceUnreachable, match=r"no service is running in .*`unroll up`"):
        redis_url(tmp_path)
    (tmp_path / "address").write_text("unix:///run/s\n")
    assert redis_url(tmp_path) == "unix:///run/s"
    monkeypatch.setenv("UNROLL_REDIS_URL", "redis://host/1")
    assert redis_url(tmp_path) == "redis://host/1"
    monkeypatch.delenv("UNROLL_REDIS_URL")
    with pytest.raises(ServiceUnreachable, match="cannot read"):
        redis_url(tmp_path / "address")


@pytest.mark.parametrize(
    ("url", "printed"),
    [
        ("redis://ann:secret@host:1/2?password=secret", "redis://host:1/2"),
        ("rediss://:secret@host", "rediss://host"),
        ("unix:///run/s?password=secret", "unix:///run/s"),
        ("unix://ann:secret@/run/s", "unix:///run/s"),
        ("redis://:secret@[::1]:1/2", "redis://[::1]:1/2"),
        ("redis://[::1", "(an address that cannot be read)"),
        ("redis://:secret", "(an address that cannot be read)"),
        ("redis://:secret:6379/0", "(an address that cannot be read)"),
        ("ann:secret@host:6379", "(an address that cannot be read)"),
        ("redis://:a:sec@ret@host/0", "redis://host/0"),
    ],
)
def test_an_address_is_printed_without_its_secrets(url: str, printed: str) -> None:
    assert shown(url) == printed


@pytest.mark.parametrize(
    "url",
    ["redis://:secret", "redis://ann:secret", "rediss://ann:secret/0", "redis://:secret:6379/0"],
)
def test_a_password_whose_at_sign_was_forgotten_is_not_printed(url: str) -> None:
    with pytest.raises(SetupError, match="write redis://HOST:PORT/0") as caught:
        connect(url)
    assert "secret" not in str(caught.value)


def test_a_word_that_is_no_text_is_refused() -> None:
    with pytest.raises(SpecError, match=r"holds '\\udc80'"), reaching("redis://host"):
        "a\udc80".encode()


@pytest.mark.parametrize("mark", "/?#")
def test_a_password_that_tears_its_address_apart_is_not_printed(mark: str) -> None:
    with pytest.raises(SetupError, match="write them as %2F %3F %23") as caught:
        connect(f"redis://:sec{mark}ret@host:6379/0")
    assert "sec" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    ["redis://:a%2Fb@host/0", "redis://host/0?password=a@b", "unix:///run/a@b/s", "redis:///0"],
)
def test_what_tears_nothing_apart(url: str) -> None:
    connect(url).close()


@pytest.mark.parametrize(
    "url", ["http://host", "host:6379", "", "redis://host:port/0", "redis://host?db=x"]
)
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(SetupError, match="is no address of a Redis"):
        connect(url)


@pytest.mark.parametrize(
    ("url", "where"),
    [
        ("redis://:pw@host:7/1", "redis://host:7"),
        ("rediss://host", "redis://host:6379"),
        ("unix:///run/s?db=1&password=pw", "unix:///run/s"),
    ],
)
def test_a_client_knows_where_it_goes(url: str, where: str) -> None:
    with connect(url) as client:
        assert address(client) == where


def test_nobody_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"unix://{tmp_path}/none"
    monkeypatch.delenv("UNROLL_REDIS_URL", raising=False)
    with connect(url) as client, pytest.raises(ServiceUnreachable) as caught, reaching(url):
        client.ping()
    assert str(caught.value).startswith(f"{url}: no service answers (")
    assert str(caught.value).endswith("; start one with `unroll up`")
    assert "\n" not in str(caught.value)


def test_of_an_address_that_was_named_the_mend_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    url = "redis://127.0.0.1:1/0"
    monkeypatch.setenv("UNROLL_REDIS_URL", url)
    with connect(url) as client, pytest.raises(ServiceUnreachable) as caught, reaching(url):
        client.ping()
    assert str(caught.value).endswith(
        "; UNROLL_REDIS_URL names it: start it there, name another, or unset it"
    )


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (redis.AuthenticationError("WRONGPASS x"), "the service refuses the password; put the"),
        (
            redis.ResponseError("NOAUTH Authentication required."),
            "the service asks for a password; write redis://:PASSWORD@HOST:PORT/0",
        ),
        (redis.exceptions.NoPermissionError("x"), "this user of the service may not do that; use"),
        (redis.TimeoutError("Timeout reading"), "the service did not answer within 5 s"),
        (redis.BusyLoadingError("LOADING"), "the service is still loading its data"),
        (redis.exceptions.ReadOnlyError("x"), "the service is a replica"),
        (redis.exceptions.OutOfMemoryError("OOM command"), "the service's memory is full"),
        (redis.ResponseError("Error running script: -OOM command"), "the service's memory is full"),
        (
            redis.ResponseError("MISCONF Redis is configured"),
            "the service cannot write to its disk",
        ),
        (redis.ConnectionError("refused.\nmore"), r"no service answers \(refused\)"),
        (redis.ResponseError("ERR odd"), "the service answers with an error: ERR odd"),
        (redis.ResponseError(), "the service answers with an error: ResponseError"),
    ],
)
def test_every_error_of_redis_is_one_sentence(error: redis.RedisError, sentence: str) -> None:
    with (
        pytest.raises(ServiceUnreachable, match=f"^redis://h/0: {sentence}"),
        reaching("redis://:pw@h/0"),
    ):
        raise error


@pytest.mark.parametrize(
    ("url", "kombu"),
    [
        ("redis://:pw@host:1/2", "redis://:pw@host:1/2"),
        ("rediss://host/0", "rediss://host/0?ssl_cert_reqs=required"),
        ("rediss://host/0?a=b", "rediss://host/0?a=b&ssl_cert_reqs=required"),
        ("rediss://host?ssl_cert_reqs=none", "rediss://host?ssl_cert_reqs=none"),
        ("unix:///run/s", "redis+socket:///run/s?virtual_host=0"),
        ("unix:///run/s?db=3", "redis+socket:///run/s?virtual_host=3"),
        ("unix:///s?password=a/b%40", "redis+socket://:a%2Fb%40@/s?virtual_host=0"),
        ("unix://ann:pw@/s", "redis+socket://ann:pw@/s?virtual_host=0"),
    ],
)
def test_kombu_spells_addresses_its_own_way(url: str, kombu: str) -> None:
    assert broker_url(url) == kombu


def test_the_bell_is_configured_as_the_design_says() -> None:
    settings = celery_settings("redis://host", "ns")
    assert settings["broker_transport_options"]["global_keyprefix"] == "unroll:ns:bell:"
    assert settings["broker_transport_options"]["socket_timeout"] == 10
    expected = {
        "worker_disable_prefetch": True,
        "task_acks_late": False,
        "task_ignore_result": True,
        "result_backend": None,
        "accept_content": ["json"],
        "worker_cancel_long_running_tasks_on_connection_loss": False,
    }
    assert {name: settings[name] for name in expected} == expected
    assert "visibility_timeout" not in settings["broker_transport_options"]


def test_keys_are_spelled_in_one_place_and_by_role() -> None:
    keys = Keys("ns")
    assert keys("job", "1m") == "unroll:ns:run:job:1m"
    assert keys("job") == "unroll:ns:run:job:"
    assert keys("leases") == "unroll:ns:run:leases"
    assert keys("pending", "gpu") == "unroll:ns:ask:pending:gpu"
    assert len({key.name for key in KEYS}) == len(KEYS)
    assert {key.group for key in KEYS} == {"ask", "run"}


@pytest.mark.parametrize("namespace", ["", "a:b", "a b", "*", "x" * 65])
def test_a_namespace_is_a_plain_word(namespace: str) -> None:
    with pytest.raises(SetupError, match="cannot be a namespace"):
        Keys(namespace)


def test_ids_are_new_every_time() -> None:
    assert len({new_id() for _ in range(100)}) > 90
