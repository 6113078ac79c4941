"""Who a charger says it is, and whether it proves it: path, basic auth or client certificate of the handshake. Pure.

OCPP 2.0.1 part 2, A: with security profiles 1 and 2 the user name is the charger's identity and the password is
shared; with profile 3 the certificate names the charger. A new password is kept before it is sent, and the old one is
good until the charger came back with the new one (A01): whatever is lost on the way, the charger gets in.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Protocol
from urllib.parse import quote, unquote, urlsplit

from cryptography import x509

LONGEST_IDENTITY: Final = 48
URN: Final = "urn:v2g-gateway:charger:"
MOST_WAITING: Final = 2
"""New passwords of which it is not known whether the charger took them."""
_NOBODY: Final = "no charger has this password, it only takes the time of a comparison"


@dataclass(frozen=True, slots=True)
class Claim:
    """What an opening handshake claims."""

    charger_id: str
    """"" where the path names none."""
    user: str
    password: str | None
    """None: no readable credentials were sent."""


def read_claim(path: str, authorization: str | None) -> Claim:
    """The claim in a request's path and Authorization header."""
    try:
        charger_id = unquote(urlsplit(path).path.rstrip("/").rpartition("/")[2], errors="strict")
    except ValueError:
        charger_id = ""
    if len(charger_id) > LONGEST_IDENTITY or not charger_id.isprintable():
        charger_id = ""
    user, password = _basic(authorization)
    return Claim(charger_id, user, password)


def proves(claim: Claim, passwords: Sequence[str]) -> bool:
    """Whether the claim brings one of these passwords. Without any (an identity that nobody knows) it takes as long as
    with a wrong one."""
    given = (claim.password or "").encode()
    same = [hmac.compare_digest(given, password.encode()) for password in passwords or (_NOBODY,)]
    return bool(passwords) and any(same) and claim.user == claim.charger_id


def certificate_names(der: bytes, charger_id: str) -> bool:
    """Whether a client certificate, which the TLS layer has verified, is this charger's (A00.FR.421, profile 3)."""
    try:
        certificate = x509.load_der_x509_certificate(der)
        names = [str(name.value) for name in certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)]
        try:
            alternative = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except x509.ExtensionNotFound:
            return charger_id in names
        ours = [uri for uri in alternative.get_values_for_type(x509.UniformResourceIdentifier) if uri.startswith(URN)]
    except ValueError:
        return False
    # Our own certificates say it in a place that the charger could not choose.
    return ours == [charger_urn(charger_id)] if ours else charger_id in names


def serial_of(der: bytes) -> str:
    """Of a certificate, as the site's CA tells serial numbers. Raises ValueError."""
    return f"{x509.load_der_x509_certificate(der).serial_number:x}"


def charger_urn(charger_id: str) -> str:
    """How a certificate of the site's CA names a charger."""
    return URN + quote(charger_id, safe="")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptPassword:
    """A charger's password as we changed it. A secret: it has no place in a log."""

    passwords: tuple[str, ...] = field(repr=False)
    """Newest last. More than one while it is not known which of them the charger took."""
    retired: bool = False
    """The charger came back with one of them: the configured password is good no more, the first here is."""
    instead_of: str = ""
    """Digest of the configured password at that time; when the installer writes another, that one counts again."""


class PasswordKeeper(Protocol):
    """Where changed passwords are kept: files of mode 0600, never the journal."""

    async def read(self, charger_id: str) -> KeptPassword | None: ...

    async def keep(self, charger_id: str, kept: KeptPassword) -> None:
        """Returns once it survives a power cut."""
        ...

    async def hand_over(self, charger_id: str, password: str) -> tuple[str, str]:
        """For a charger that the installer is about to configure: the password that waits for it already, else this
        one, and where it is kept, as the configuration names it."""
        ...


class Passwords:
    """Which passwords are good for one charger now."""

    def __init__(self, charger_id: str, configured: str | None, keeper: PasswordKeeper | None) -> None:
        self._charger_id = charger_id
        self._configured = configured
        self._keeper = keeper
        self._kept: KeptPassword | None = None

    async def recall(self) -> None:
        """Go on from what was kept."""
        kept = None if self._keeper is None else await self._keeper.read(self._charger_id)
        self._kept = kept if kept is not None and kept.instead_of == self._digest() else None

    @property
    def open(self) -> bool:
        """Whether this charger needs no password at all."""
        return self._configured is None and (self._kept is None or not self._kept.retired)

    def good(self) -> tuple[str, ...]:
        """All that are good now."""
        configured = () if self._configured is None else (self._configured,)
        if self._kept is None:
            return configured
        return self._kept.passwords if self._kept.retired else (*configured, *self._kept.passwords)

    async def offer(self, password: str) -> None:
        """About to be sent to the charger: good from now on, beside the old. Raises what the keeper raises."""
        kept = self._kept or KeptPassword(passwords=(), instead_of=self._digest())
        in_use = kept.passwords[:1] if kept.retired else ()
        # A charger that did not answer took one of the last ones, or none.
        waiting = kept.passwords[len(in_use) :][1 - MOST_WAITING :]
        await self._keep(replace(kept, passwords=(*in_use, *waiting, password)))

    async def withdraw(self, password: str) -> None:
        """The charger refused it."""
        if self._kept is not None:
            left = tuple(one for one in self._kept.passwords if one != password)
            await self._keep(replace(self._kept, passwords=left))

    async def came_with(self, password: str | None) -> bool:
        """The charger got in with this one. Whether that retires an older."""
        kept = self._kept
        if kept is None or password is None or password not in kept.passwords:
            return False
        if kept.retired and password == kept.passwords[0]:
            return False  # the one in use; a newer may still be taken
        await self._keep(replace(kept, passwords=(password,), retired=True))
        return True

    async def _keep(self, kept: KeptPassword) -> None:
        if self._keeper is None:
            raise ValueError("no place is configured to keep a new password")
        await self._keeper.keep(self._charger_id, kept)
        self._kept = kept

    def _digest(self) -> str:
        return hashlib.sha256(f"{self._charger_id}/{self._configured or ''}".encode()).hexdigest()


def _basic(authorization: str | None) -> tuple[str, str | None]:
    scheme, _, encoded = (authorization or "").partition(" ")
    if scheme.lower() != "basic":
        return "", None
    try:
        user, colon, password = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return "", None
    return (user, password) if colon else ("", None)
