"""Modbus/TCP Security: who the device must prove to be, and as whom we come. The peer is always verified.

Source: MODBUS/TCP Security Protocol Specification V2.1: TLS 1.2 or newer around plain Modbus TCP, mutual where the
device asks for it. Keys are files here: Python's TLS cannot use a key that stays in the token.
"""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from pathlib import Path

from drivers.sunspec.errors import NoAnswerError


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """What a tls:// line needs. Files are read at each connect, so that renewed ones are taken."""

    ca_file: Path
    """PEM: whoever certifies the device; the device's own certificate where it signs itself."""
    certificate_file: Path | None = None
    """PEM: our certificate, for devices that ask for one."""
    key_file: Path | None = None
    """PEM, readable by its owner only (0600)."""
    server_name: str | None = None
    """Name in the device's certificate; None: the host of its address."""

    def context(self) -> ssl.SSLContext:
        """Raises NoAnswerError that names the file which cannot be used."""
        try:
            context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=self.ca_file)
        except OSError as error:  # SSLError is an OSError
            raise NoAnswerError(f"ca_file {self.ca_file} cannot be used: {_why(error)}") from error
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.certificate_file is not None:
            key_file = self.key_file or self.certificate_file
            try:
                if os.stat(key_file).st_mode & 0o077:
                    raise NoAnswerError(f"key_file {key_file}: others may read this key; run chmod 600 on it")
                context.load_cert_chain(self.certificate_file, key_file, password="")  # "": ask nobody
            except OSError as error:
                raise NoAnswerError(
                    f"certificate_file {self.certificate_file} and key_file {key_file} cannot be used: {_why(error)}"
                ) from error
        return context


def _why(error: OSError) -> str:
    return error.strerror or str(error)
