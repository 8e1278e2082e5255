"""Certificates of a test's own, and a door that speaks TLS before a server that does not."""

import contextlib
import socket
import ssl
import subprocess
import threading
from pathlib import Path

import pytest


class Certificates:
    """An authority, and a certificate of it for 127.0.0.1."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.authority, self.certificate, self.key = (
            folder / name for name in ("authority.pem", "server.pem", "server.key")
        )
        authority_key, request, names = folder / "ca.key", folder / "r.csr", folder / "names"
        names.write_text("subjectAltName=IP:127.0.0.1")
        common = ("-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
        _openssl(
            *("req", "-x509", "-subj", "/CN=authority", "-days", "2", *common),
            *("-keyout", authority_key, "-out", self.authority),
        )
        _openssl(
            *("req", "-new", "-subj", "/CN=127.0.0.1", *common),
            *("-keyout", self.key, "-out", request),
        )
        _openssl(
            *("x509", "-req", "-in", request, "-CA", self.authority, "-CAkey", authority_key),
            *("-CAcreateserial", "-days", "2", "-extfile", names, "-out", self.certificate),
        )


def _openssl(*arguments: object) -> None:
    try:
        subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("no openssl here to make certificates")


class Door:
    """Take TLS connections on 127.0.0.1 and pass them on to a unix socket."""

    def __init__(self, certificates: Certificates, behind: str) -> None:
        self._behind = behind
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificates.certificate, certificates.key)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._socket.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                threading.Thread(
                    target=self._pass, args=self._socket.accept()[:1], daemon=True
                ).start()

    def _pass(self, plain: socket.socket) -> None:
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            outside = stack.enter_context(self._context.wrap_socket(plain, server_side=True))
            inside = stack.enter_context(socket.socket(socket.AF_UNIX))
            inside.connect(self._behind)
            threading.Thread(target=_copy, args=[inside, outside], daemon=True).start()
            _copy(outside, inside)


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)
