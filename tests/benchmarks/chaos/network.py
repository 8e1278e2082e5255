"""A network of its own for each host, where the machine allows that: then a cut loses packets."""

import contextlib
import os
import subprocess
from collections.abc import Iterator, Sequence
from typing import Final

#: Networks of one run: 10.x.HOST.0/24, whose x follows from this process, so that runs do not meet.
_NETWORK: Final = 64 + os.getpid() % 128


class NoNetworks(Exception):
    """This machine lets nobody make networks: no right to, or no `ip`."""


class Link:
    """A network namespace, and the pair of cards that joins it to this one. Raise NoNetworks."""

    def __init__(self, number: int) -> None:
        self._name = f"uc{os.getpid()}-{number}"
        self._ours, theirs = f"{self._name}o", f"{self._name}t"
        #: Where this side is, seen from the other.
        self.address: Final = f"10.{_NETWORK}.{number}.1"
        inside = f"10.{_NETWORK}.{number}.2/24"
        try:
            _ip(f"netns add {self._name}")
            _ip(f"link add {self._ours} type veth peer name {theirs} netns {self._name}")
            _ip(f"addr add {self.address}/24 dev {self._ours}")
            _ip(f"link set {self._ours} up")
            for line in (f"addr add {inside} dev {theirs}", f"link set {theirs} up"):
                _ip(f"-n {self._name} {line}")
            _ip(f"-n {self._name} link set lo up")
        except NoNetworks:
            self.close()
            raise

    @property
    def inside(self) -> Sequence[str]:
        """Return what stands before a command that runs inside."""
        return ("ip", "netns", "exec", self._name)

    def cut(self) -> None:
        """Lose every packet."""
        _ip(f"link set {self._ours} down")

    def join(self) -> None:
        """Lose none any more."""
        _ip(f"link set {self._ours} up")

    def close(self) -> None:
        """Take it all away."""
        for line in (f"link del {self._ours}", f"netns del {self._name}"):
            with contextlib.suppress(NoNetworks):
                _ip(line)


def _ip(arguments: str) -> None:
    try:
        subprocess.run(["ip", *arguments.split()], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise NoNetworks(str(error)) from None


@contextlib.contextmanager
def links(count: int) -> Iterator[Sequence[Link]]:
    """Return so many links, numbered from 1, or none where there can be none."""
    made: list[Link] = []
    try:
        with contextlib.suppress(NoNetworks):
            for number in range(1, count + 1):
                made.append(Link(number))  # noqa: PERF401 - those before are to be closed
        yield made if len(made) == count else []
    finally:
        for link in made:
            link.close()
