"""The gateway's ML-DSA-65 key, which countersigns batches: its file, encrypted under a key of the token, and its use.

No token of today makes or holds such a key. The file holds its seed, AES-256-GCM under a random key that is encrypted
to an RSA key of the token; in memory it is open while the agent runs. proto/EVIDENCE.md section 15 tells verifiers.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from dataclasses import replace
from pathlib import Path
from typing import Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import mldsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from agent.durable import write_whole
from agent.evidence import cbor, cose
from agent.evidence.batch import SealedBatch
from agent.evidence.countersignature import Countersignature, protected_header
from agent.evidence.errors import EvidenceError
from agent.identity.errors import IdentityError
from agent.identity.purposes import COUNTERSIGN_WRAP_KEY
from agent.token.wrapping import encrypt_to
from drivers.device import SignerUnavailableError

KEY_FILE: Final = "countersign.key"
PUBLIC_FILE: Final = "countersign.pem"
"""In the folder of what the platform needs to know."""
ENROLMENT: Final = "enrolment"
_FORMAT: Final = "v2g-gateway/ml-dsa-65-key"
_VERSION: Final = 1
_MOST_BYTES: Final = 8192
_KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12


class CountersignerError(IdentityError, SignerUnavailableError):
    """The key cannot be used. Batches wait: without countersignature some verifiers would refuse them for ever."""


class GuardingToken(Protocol):
    """The part of `agent.token.token.Token` that is used here."""

    async def wrapping_key(self, key_id: bytes) -> bytes: ...
    async def unwrap(self, key_id: bytes, encrypted: bytes) -> bytes: ...


class MlDsaCountersigner:
    """The open key."""

    def __init__(self, private: mldsa.MLDSA65PrivateKey) -> None:
        self._private = private
        self.public_key_der = _public_der(private)
        self._key_id = cose.key_id_of(self.public_key_der)
        self._protected = protected_header(cose.ML_DSA_65, self._key_id)

    async def countersign(self, sealed: SealedBatch) -> SealedBatch:
        """The batch with its second signature, verified before it is given out. Raises CountersignerError."""
        message = sealed.to_be_countersigned(self._protected)
        # Beside the loop: it takes milliseconds on a small box.
        signature = await asyncio.to_thread(self._private.sign, message)
        try:
            cose.VerifyKey(cose.ML_DSA_65, self.public_key_der).verify(message, signature)
        except EvidenceError as error:
            raise CountersignerError(f"a countersignature does not verify and is not used: {error}") from error
        return replace(sealed, countersignature=Countersignature(self._protected, self._key_id, signature))


async def open_countersigner(token: GuardingToken, state_dir: Path) -> MlDsaCountersigner:
    """The key of this gateway, made when there is none yet; its public half goes to `enrolment`.

    Raises CountersignerError, or SignerUnavailableError while the token is away.
    """
    path = state_dir / KEY_FILE
    try:
        kept = await asyncio.to_thread(path.read_bytes) if path.exists() else None
        if kept is None:
            wrapping_key = await token.wrapping_key(COUNTERSIGN_WRAP_KEY)
            made = mldsa.MLDSA65PrivateKey.generate()
            kept = _encode(made, wrapping_key)
            await asyncio.to_thread(write_whole, path, kept, mode=0o600)
        signer = MlDsaCountersigner(await _decode(kept, token, path))
        await asyncio.to_thread(_publish, state_dir / ENROLMENT, signer.public_key_der)
    except OSError as error:
        raise CountersignerError(f"{path}: {error.strerror}; the countersignature key is needed") from error
    return signer


def _encode(private: mldsa.MLDSA65PrivateKey, wrapping_key: bytes) -> bytes:
    key, nonce = secrets.token_bytes(_KEY_BYTES), secrets.token_bytes(_NONCE_BYTES)
    public = _public_der(private)
    sealed = AESGCM(key).encrypt(nonce, private.private_bytes_raw(), _about(public))
    fields: list[cbor.Value] = [_FORMAT, _VERSION, public, encrypt_to(wrapping_key, key), nonce, sealed]
    return cbor.encode([*fields, _digest(fields)])


async def _decode(encoded: bytes, token: GuardingToken, path: Path) -> mldsa.MLDSA65PrivateKey:
    """Raises CountersignerError or SignerUnavailableError."""
    try:
        value = cbor.decode(encoded, what=str(path), most_bytes=_MOST_BYTES)
    except EvidenceError as error:
        raise CountersignerError(f"{error}; {_CURE}") from error
    match value:
        case [str(name), int(version), bytes(public), bytes(wrapped), bytes(nonce), bytes(sealed), bytes(digest)]:
            if (name, version) != (_FORMAT, _VERSION):
                raise CountersignerError(f"{path}: {name[:40]!r} version {version} is not known here; {_CURE}")
        case _:
            raise CountersignerError(f"{path}: not the file of a countersignature key; {_CURE}")
    if digest != _digest([name, version, public, wrapped, nonce, sealed]):
        # Looked at before the token: a damaged secret has sent a TPM into its failure mode.
        raise CountersignerError(f"{path}: is damaged; {_CURE}")
    key = await token.unwrap(COUNTERSIGN_WRAP_KEY, wrapped)
    try:
        seed = AESGCM(key).decrypt(nonce, sealed, _about(public))
        private = mldsa.MLDSA65PrivateKey.from_seed_bytes(seed)
    except (InvalidTag, ValueError) as error:
        raise CountersignerError(f"{path}: does not open under the token's key; {_CURE}") from error
    if _public_der(private) != public:
        raise CountersignerError(f"{path}: holds another key than it names; {_CURE}")
    return private


_CURE: Final = "restore it, or remove it and enrol the new key that is then made"


def _digest(fields: list[cbor.Value]) -> bytes:
    return hashlib.sha256(cbor.encode(fields)).digest()


def _about(public: bytes) -> bytes:
    """Binds the encrypted seed to its place and public half."""
    return f"{_FORMAT} {_VERSION}".encode() + public


def _public_der(private: mldsa.MLDSA65PrivateKey) -> bytes:
    return private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _publish(folder: Path, public: bytes) -> None:
    pem = load_der_public_key(public).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    path = folder / PUBLIC_FILE
    if path.exists() and path.read_bytes() == pem:
        return
    folder.mkdir(exist_ok=True)
    write_whole(path, pem, mode=0o644)
