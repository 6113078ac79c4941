"""Modbus/TCP Security: the device proves who it is or is not spoken to; we prove it where we are asked."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from drivers.sunspec import ConnectionPool
from drivers.sunspec.endpoint import parse_address
from drivers.sunspec.errors import NoAnswerError
from drivers.sunspec.tls import TlsFiles
from hil_tests.rig.site.modbus import ModbusTcpServer
from hil_tests.test_sunspec_lines import Numbered


class Authority:
    """A certificate authority in a folder."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.file = folder / f"{name}.pem"
        certificate = self._builder(self._name, self._key.public_key()).add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        )
        self.file.write_bytes(certificate.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def certify(self, name: str, *, address: str | None = None) -> tuple[Path, Path]:
        """(certificate file, key file)."""
        key = ec.generate_private_key(ec.SECP256R1())
        names: list[x509.GeneralName] = [x509.DNSName(name)]
        if address is not None:
            names.append(x509.IPAddress(ipaddress.ip_address(address)))
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = self._builder(subject, key.public_key()).add_extension(
            x509.SubjectAlternativeName(names), critical=False
        )
        files = self._folder / f"{name}.crt", self._folder / f"{name}.key"
        files[0].write_bytes(certificate.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        files[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        files[1].chmod(0o600)
        return files

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
        )


def device_tls(authority: Authority, *, name: str = "device", address: str | None = "127.0.0.1") -> ssl.SSLContext:
    """A device's own side: it shows a certificate of this authority."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*authority.certify(name, address=address))
    return context


@asynccontextmanager
async def tls_device(
    authority: Authority, *, name: str = "device", address: str | None = "127.0.0.1", asks: bool = False
) -> AsyncIterator[str]:
    """The address of a device with this certificate; `asks`: it wants one of ours."""
    context = device_tls(authority, name=name, address=address)
    if asks:
        context.load_verify_locations(authority.file)
        context.verify_mode = ssl.CERT_REQUIRED
    server = ModbusTcpServer(Numbered(), unit=1, monotonic_s=time.monotonic)
    await server.start("127.0.0.1", 0, context)
    try:
        yield f"tls://127.0.0.1:{server.port}"
    finally:
        await server.stop()


async def read_with(address: str, files: TlsFiles | None) -> list[int]:
    pool = ConnectionPool(time.monotonic, tls={} if files is None else {parse_address(address): files})
    try:
        return (await pool.connection(address).read(1, 100, 2, 2.0)).words
    finally:
        pool.close()


async def test_a_device_with_a_certificate_of_our_authority_is_read(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "ca")
    async with tls_device(authority) as address:
        assert await read_with(address, TlsFiles(authority.file)) == [100, 101]


async def test_a_device_of_another_authority_is_refused(tmp_path: Path) -> None:
    async with tls_device(Authority(tmp_path, "ca")) as address:
        with pytest.raises(NoAnswerError, match="its certificate is refused"):
            await read_with(address, TlsFiles(Authority(tmp_path, "other").file))


async def test_a_device_of_another_name_is_refused_and_the_name_can_be_said(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "ca")
    async with tls_device(authority, name="inverter", address=None) as address:
        with pytest.raises(NoAnswerError, match="its certificate is refused"):
            await read_with(address, TlsFiles(authority.file))
        assert await read_with(address, TlsFiles(authority.file, server_name="inverter")) == [100, 101]


async def test_a_device_that_asks_for_our_certificate_gets_it_and_refuses_us_without(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "ca")
    certificate_file, key_file = authority.certify("gateway")
    async with tls_device(authority, asks=True) as address:
        ours = TlsFiles(authority.file, certificate_file, key_file)
        assert await read_with(address, ours) == [100, 101]
        with pytest.raises(NoAnswerError):
            await read_with(address, replace(ours, certificate_file=None, key_file=None))
        key_file.chmod(0o644)
        with pytest.raises(NoAnswerError, match="chmod 600"):
            await read_with(address, ours)


def test_the_peer_is_always_verified_and_tls_is_not_older_than_1_2(tmp_path: Path) -> None:
    context = TlsFiles(Authority(tmp_path, "ca").file).context()
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2


async def test_files_that_are_missing_are_named(tmp_path: Path) -> None:
    with pytest.raises(NoAnswerError, match="needs `ca_file`"):
        await read_with("tls://127.0.0.1:1", None)
    with pytest.raises(NoAnswerError, match=r"none\.pem cannot be used: No such file"):
        await read_with("tls://127.0.0.1:1", TlsFiles(tmp_path / "none.pem"))


async def test_a_plain_port_is_no_tls(tmp_path: Path) -> None:
    server = ModbusTcpServer(Numbered(), unit=1, monotonic_s=time.monotonic)
    await server.start("127.0.0.1", 0)
    try:
        with pytest.raises(NoAnswerError):
            await read_with(f"tls://127.0.0.1:{server.port}", TlsFiles(Authority(tmp_path, "ca").file))
    finally:
        await server.stop()
