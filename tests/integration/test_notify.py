"""Webhooks: what happens is told at least once, signed, and never to a private address unasked."""

import base64
import contextlib
import hashlib
import hmac
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from jobs.client import Client
from jobs.errors import NotAllowed, SpecError
from jobs.job import Reason
from jobs.notify import Delivery, Hook, Hooks, key_of
from jobs.spec import Component, TrainSpec
from jobs.store import JobStore
from tests.doubles.waiting import eventually
from worker import notifying
from worker.notifying import Notifier, Undelivered, is_public, pause, send, signed

if TYPE_CHECKING:
    from tests.integration.conftest import Hand

SPEC = TrainSpec(model=Component("m"), data=Component("d"))


class Receiver:
    """An HTTP server that notes what it is told and answers as it is set up."""

    def __init__(self) -> None:
        self.told: list[tuple[str, dict[str, str], bytes]] = []
        self.status = 204
        self.location = ""
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                receiver.told.append((self.path, headers, body))
                self.send_response(receiver.status)
                if receiver.location:
                    self.send_header("Location", receiver.location)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook?a=b"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    monkeypatch.setenv("UNROLL_NOTIFY_PRIVATE", "1")
    made = Receiver()
    yield made
    made.close()


@pytest.fixture
def deliver(person: Client) -> Callable[[], None]:
    """Return what a worker does again and again."""
    notifier = Notifier(person.store.beside(Hooks))

    def once() -> None:
        notifier.deliver()
        notifier.wait()

    return once


def fail(person: Client, hand: "Hand", message: str = "no such thing") -> str:
    job = person.submit(SPEC).id
    hand.fail(Reason.USER_ERROR, message)
    return job


def test_a_failed_job_is_told_of_with_a_signature_that_holds(
    person: Client, hand: "Hand", receiver: Receiver, deliver: Callable[[], None]
) -> None:
    hook = person.hooks.add(receiver.url, ["failed"])
    job = fail(person, hand)
    deliver()
    ((path, headers, body),) = receiver.told
    assert path == "/hook?a=b"
    said = json.loads(body)
    assert said["type"] == "failed"
    about = {"job": job, "kind": "train", "reason": "user_error", "message": "no such thing"}
    assert said["data"] == about
    content = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    digest = hmac.new(base64.b64decode(hook.secret[6:]), content, hashlib.sha256).digest()
    assert headers["webhook-signature"] == "v1," + base64.b64encode(digest).decode()
    deliver()
    assert len(receiver.told) == 1
    (listed,) = person.hooks.list()
    assert listed.told > 0
    assert listed.error == ""
    assert hook.secret not in repr(listed)


def test_a_signature_is_that_of_the_standard() -> None:
    # The example of the Standard Webhooks' own libraries.
    hook = Hook("h", "", (), "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    delivery = Delivery("msg_p5jXN8AQM9LWM0D4loKWxJek", hook, "", 1)
    headers = signed(delivery, b'{"test": 2432232314}', 1614265330)
    expected = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert headers["webhook-signature"] == expected


def test_each_is_told_of_what_it_wants_and_of_nothing_else(
    person: Client, hand: "Hand", receiver: Receiver, deliver: Callable[[], None]
) -> None:
    person.hooks.add(receiver.url, ["cancelled"])
    person.hooks.add(receiver.url, ["promoted", "rolled_back", "failed"])
    fail(person, hand)
    person.submit(SPEC).cancel()
    trained = person.submit(SPEC)
    hand.train(val_bleu=1)
    person.models.register("de-en", trained.id)
    person.models["de-en"].promote(1)
    deliver()
    said = [json.loads(body) for _, _, body in receiver.told]  # side by side, in any order
    assert sorted(each["type"] for each in said) == ["cancelled", "failed", "promoted"]
    (promoted,) = (each["data"] for each in said if each["type"] == "promoted")
    assert (promoted["model"], promoted["version"]) == ("de-en", "1")


def test_where_nobody_is_told_no_word_is_left(person: Client, hand: "Hand") -> None:
    fail(person, hand)
    assert person.hooks.fan_out() == 0
    person.hooks.add("https://example.org", ["failed"])
    fail(person, hand)
    assert person.hooks.fan_out() == 1


def test_what_does_not_arrive_is_tried_again_and_then_given_up(
    person: Client,
    hand: "Hand",
    receiver: Receiver,
    deliver: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(notifying, "_FIRST_PAUSE", 0.0)
    monkeypatch.setattr(notifying, "_TRIES", 3)
    receiver.status = 500
    person.hooks.add(receiver.url, ["failed"])
    fail(person, hand)
    deliver()
    assert len(receiver.told) == 3
    assert len({headers["webhook-id"] for _, headers, _ in receiver.told}) == 1
    (listed,) = person.hooks.list()
    assert listed.error == "it answered 500"
    (lost,) = person.hooks.undelivered()
    assert json.loads(lost["event"])["type"] == "failed"
    receiver.status = 200
    deliver()
    assert len(receiver.told) == 3


def test_a_redirect_is_not_followed(
    person: Client, receiver: Receiver, deliver: Callable[[], None]
) -> None:
    receiver.status, receiver.location = 302, "http://169.254.169.254/secrets"
    hook = person.hooks.add(receiver.url, ["failed"])
    person.hooks.test(hook.id)
    deliver()
    assert json.loads(receiver.told[0][2])["type"] == "test"
    assert person.hooks.list()[0].error == "it answered 302, and redirects are not followed"


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.1.2.3", "192.168.0.1", "172.16.0.1", "169.254.169.254", "0.0.0.0"),
        *("100.64.0.1", "224.0.0.1", "::1", "fe80::1%eth0", "fc00::1", "::ffff:127.0.0.1", "::"),
        *("2002:7f00:1::", "2001:0:4136:e378:8000:63bf:3fff:fdd2"),
    ],
)
def test_an_address_that_is_not_of_the_internet_is_none_to_tell(address: str) -> None:
    assert not is_public(address)


def test_addresses_of_the_internet_are_told() -> None:
    assert is_public("93.184.216.34")
    assert is_public("2606:2800:220:1:248:1893:25c8:1946")
    assert is_public("::ffff:93.184.216.34")


def delivery_to(url: str) -> Delivery:
    hook = Hook("h", url, ("failed",), "whsec_" + base64.b64encode(bytes(24)).decode())
    return Delivery("msg_1", hook, '{"type": "failed", "time": "1000"}', 1)


def test_a_private_address_is_refused_also_behind_a_name(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("UNROLL_NOTIFY_PRIVATE")
    for url in (receiver.url, receiver.url.replace("127.0.0.1", "localhost")):
        with pytest.raises(Undelivered, match="a private address"):
            send(delivery_to(url))
    assert receiver.told == []


def test_a_name_is_asked_for_once_and_what_was_looked_at_is_connected_to(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = int(receiver.url.split(":")[2].split("/")[0])
    asked = []

    def rebinding(host: str, *_: Any, **__: Any) -> list[Any]:
        asked.append(host)
        assert len(asked) == 1, "a second answer could be another address"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    send(delivery_to(f"http://hooks.example:{port}/x"))
    assert asked == ["hooks.example"]
    assert receiver.told[0][1]["host"] == f"hooks.example:{port}"


@pytest.mark.parametrize("drips", [False, True])
def test_who_does_not_answer_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, drips: bool
) -> None:
    monkeypatch.setenv("UNROLL_NOTIFY_PRIVATE", "1")
    monkeypatch.setattr(notifying, "_READ", 60.0 if drips else 0.1)
    monkeypatch.setattr(notifying, "_WHOLE", 0.3 if drips else 60.0)
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        pytest.raises(Undelivered, match="did not answer"),
    ):
        send(delivery_to(f"http://127.0.0.1:{server.getsockname()[1]}/"))


def anonymous(side: int) -> ssl.SSLContext:
    """Return TLS without a certificate, which a test would have to make."""
    context = ssl.SSLContext(side)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("AECDH:@SECLEVEL=0")
    return context


def drip(server: socket.socket) -> None:
    """Answer a byte at a time, for seconds."""
    with contextlib.suppress(OSError), server.accept()[0] as plain:
        shaken = anonymous(ssl.PROTOCOL_TLS_SERVER).wrap_socket(plain, server_side=True)
        with shaken as connection:
            for byte in b"HTTP/1.1" + 300 * b" " + b"204 \r\n\r\n":
                connection.sendall(bytes([byte]))
                time.sleep(0.01)


@pytest.mark.parametrize("shakes_hands", [False, True])
def test_the_whole_of_a_try_is_bounded_over_tls_too(
    monkeypatch: pytest.MonkeyPatch, shakes_hands: bool
) -> None:
    monkeypatch.setenv("UNROLL_NOTIFY_PRIVATE", "1")
    context = anonymous(ssl.PROTOCOL_TLS_CLIENT)
    monkeypatch.setattr(ssl, "create_default_context", lambda: context)
    monkeypatch.setattr(notifying, "_CONNECT", 60.0)
    monkeypatch.setattr(notifying, "_READ", 60.0)
    monkeypatch.setattr(notifying, "_WHOLE", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        dripping = threading.Thread(target=drip, args=(server,))
        if shakes_hands:
            dripping.start()
        with pytest.raises(Undelivered, match="did not answer"):
            send(delivery_to(f"https://localhost:{server.getsockname()[1]}/"))
        if shakes_hands:
            assert dripping.is_alive(), "it was cut off, and did not end by itself"
            dripping.join()


def test_nobody_there_is_said_and_not_raised(
    person: Client, monkeypatch: pytest.MonkeyPatch, deliver: Callable[[], None]
) -> None:
    monkeypatch.setenv("UNROLL_NOTIFY_PRIVATE", "1")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    hook = person.hooks.add(f"http://127.0.0.1:{port}/", ["failed"])
    person.hooks.test(hook.id)
    deliver()
    assert "refused" in person.hooks.list()[0].error


def test_a_webhook_that_hangs_holds_up_itself_alone(
    person: Client, hand: "Hand", receiver: Receiver
) -> None:
    notifier = Notifier(person.store.beside(Hooks))
    with socket.create_server(("127.0.0.1", 0)) as hanging:  # connects, and never answers
        slow = person.hooks.add(f"http://127.0.0.1:{hanging.getsockname()[1]}/", ["failed"])
        quick = person.hooks.add(receiver.url, ["failed"])
        for _ in range(30):
            fail(person, hand)
        notifier.deliver()
        eventually(lambda: len(receiver.told) == 30)
        times = {each.id: each.told for each in person.hooks.list()}
        assert times[quick.id]
        assert not times[slow.id], "it is waited for still"
        person.hooks.remove(slow.id)
    notifier.wait()  # the closed server resets what hangs


def test_however_much_waits_for_one_webhook_the_others_have_their_turn(
    person: Client, hand: "Hand"
) -> None:
    slow = person.hooks.add("https://slow.example.org", ["failed"])
    for _ in range(1_100):
        person.hooks.test(slow.id)
    while person.hooks.fan_out():
        pass
    quick = person.hooks.add("https://quick.example.org", ["failed"])
    person.hooks.test(quick.id)
    person.hooks.fan_out()
    taken = person.hooks.claim(60, busy=[slow.id])
    assert taken is not None
    assert taken.hook.id == quick.id
    assert person.hooks.claim(60, busy=[slow.id]) is None


def test_of_several_webhooks_who_has_waited_longest_is_told_first(person: Client) -> None:
    time = 1_000
    store = JobStore(person.store._client, person.store.keys.namespace, lambda: time)
    hooks = store.beside(Hooks)
    made = [hooks.add("https://example.org", ["failed"]).id for _ in range(3)]
    order = [made[each] for each in (2, 0, 1, 1, 2, 0)]
    for hook in order:
        hooks.test(hook)
        hooks.fan_out()
        time += 1
    taken = [hooks.claim(60) for _ in order]
    assert [each.hook.id for each in taken if each] == order
    assert hooks.claim(60) is None


def test_a_worker_that_dies_over_a_delivery_leaves_it_to_the_next(
    person: Client, hand: "Hand", receiver: Receiver, deliver: Callable[[], None]
) -> None:
    person.hooks.add(receiver.url, ["failed"])
    fail(person, hand)
    person.hooks.fan_out()
    taken = person.hooks.claim(hold=0.0)
    assert taken is not None
    deliver()
    assert len(receiver.told) == 1
    person.hooks.settle(taken, "too late", 0.0)
    assert person.hooks.list()[0].error == ""


def test_while_one_worker_delivers_another_does_not(person: Client, hand: "Hand") -> None:
    person.hooks.add("https://example.org", ["failed"])
    fail(person, hand)
    person.hooks.fan_out()
    assert person.hooks.claim(hold=60) is not None
    assert person.hooks.claim(hold=60) is None


def test_who_was_removed_is_told_no_more(
    person: Client, hand: "Hand", receiver: Receiver, deliver: Callable[[], None]
) -> None:
    hook = person.hooks.add(receiver.url, ["failed"])
    fail(person, hand)
    person.hooks.fan_out()
    person.hooks.remove(hook.id)
    deliver()
    assert receiver.told == []
    assert person.hooks.list() == []
    with pytest.raises(NotAllowed, match="there is no webhook"):
        person.hooks.remove(hook.id)
    with pytest.raises(NotAllowed, match="there is no webhook"):
        person.hooks.test(hook.id)


def test_of_who_was_removed_nothing_is_left(person: Client) -> None:
    hook = person.hooks.add("https://example.org", ["failed"])
    for _ in range(3):
        person.hooks.test(hook.id)
    person.hooks.fan_out()
    first, second = (person.hooks.claim(60) for _ in range(2))
    assert first is not None
    assert second is not None
    person.hooks.settle(first, "it answered 500", 5.0)
    person.hooks.remove(hook.id)
    person.hooks.fan_out()
    person.hooks.settle(second, "it answered 500", 5.0)  # what was under way meanwhile
    left = person.store._client.keys(f"unroll:{person.store.keys.namespace}:*")
    assert left == [person.store.keys("outbox").encode()], "and that is empty"


@pytest.mark.parametrize(
    "url",
    [
        *("example.org", "ftp://example.org", "http://", "https://user:word@example.org"),
        *("https://exämple.org", "https://example.org/a b", "http://example.org:99999/"),
        "https://example.org/" + "x" * 2000,
    ],
)
def test_an_address_that_cannot_be_is_refused(person: Client, url: str) -> None:
    with pytest.raises(SpecError, match="address"):
        person.hooks.add(url, ["failed"])
    assert person.hooks.list() == []


def test_what_nobody_can_be_told_of_is_refused(person: Client) -> None:
    with pytest.raises(SpecError, match="nothing is called 'fialed'; did you mean 'failed'"):
        person.hooks.add("https://example.org", ["fialed"])
    with pytest.raises(SpecError, match="say what to tell of"):
        person.hooks.add("https://example.org", [])
    with pytest.raises(SpecError, match="a secret is whsec_"):
        person.hooks.add("https://example.org", ["failed"], "short")
    assert len(key_of(person.hooks.add("https://example.org", ["failed"]).secret)) == 24


def test_the_pauses_grow_and_end() -> None:
    pauses = [pause(tries) for tries in range(1, 17)]
    assert pauses[-1] is None
    grown = [each for each in pauses if each is not None]
    assert 4 <= grown[0] <= 6
    assert all(later > earlier for earlier, later in pairwise(grown[:10]))
    assert max(grown) <= 6 * 3600 * 1.2
