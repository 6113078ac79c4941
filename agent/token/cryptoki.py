"""One PKCS#11 module as this room uses it: select a token, log in, find and check keys, sign, generate.

Every function here runs on the owner thread and nowhere else. Errors of the module come out as they are (PKCS11Error):
recovery decides by their type.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pkcs11
import pkcs11.exceptions as p11
from pkcs11 import Attribute, KeyType, Mechanism, MechanismFlag, ObjectClass, TokenFlag
from pkcs11.constants import DEFAULT

from agent.evidence.errors import EvidenceError
from agent.token import remains, softhsm_files, wrapping
from agent.token.custody import fault_of, flag_of
from agent.token.errors import (
    KeyExistsError,
    KeyMissingError,
    KeyRefusedError,
    PinLockedError,
    PinRefusedError,
    TokenAbsentError,
    TokenAmbiguousError,
    TokenUnavailableError,
)
from agent.token.keys import Curve, PublicHalf, TokenKey, name_of, public_key_der_of
from agent.token.refused_pin import RefusedPin

if TYPE_CHECKING:
    from pkcs11._pkcs11 import lib as Library  # noqa: N812

_PIN_ERRORS: Final = (p11.PinIncorrect, p11.PinInvalid, p11.PinLenRange, p11.PinExpired)

# Signing is all that these keys are for. DEFAULT leaves the attribute out of the template: a TPM refuses templates that
# mention encryption, wrapping or derivation at all.
_PUBLIC_TEMPLATE: Final = {Attribute.ENCRYPT: DEFAULT, Attribute.WRAP: DEFAULT}
_PRIVATE_TEMPLATE: Final = {
    Attribute.DECRYPT: DEFAULT,
    Attribute.UNWRAP: DEFAULT,
    Attribute.DERIVE: DEFAULT,
    Attribute.SENSITIVE: True,
    Attribute.EXTRACTABLE: False,
}

_TOLD: Final = {Mechanism.ECDSA: "ECDSA", Mechanism.EDDSA: "EdDSA", Mechanism.RSA_PKCS_OAEP: "RSA-OAEP"}
"""Of a token's mechanisms those that are used here: two to sign, and one to open secrets."""

_in_use: Final[set[str]] = set()
"""Modules that a thread of this process owns: a second one inside the same module would crash the process."""
_in_use_lock: Final = threading.Lock()


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which token: exactly one of label and serial is given."""

    module: Path
    label: str | None
    serial: str | None

    def __str__(self) -> str:
        return f"with serial {self.serial!r}" if self.serial is not None else f"labelled {self.label!r}"


@dataclass(frozen=True, slots=True)
class TokenNames:
    """What a token says of itself."""

    label: str
    serial: str
    model: str


@dataclass(frozen=True, slots=True)
class HeldKey:
    """A private key's handle in the present session, with its public half."""

    key_id: bytes
    private: pkcs11.PrivateKey
    public: PublicHalf


class _Pin(str):
    """Stays out of tracebacks that show local variables."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<PIN>"


class Cryptoki:
    """The module, at most one session, and the login. `read_pin` is asked each time that a login is needed."""

    def __init__(self, selection: Selection, read_pin: Callable[[], str], refused: RefusedPin | None = None) -> None:
        self._selection = selection
        self._read_pin = read_pin
        self._library = str(selection.module)
        self._owned = False
        self._loaded: Library | None = None
        self._token: pkcs11.Token | None = None
        self._session: pkcs11.Session | None = None
        self._mechanisms: frozenset[int] = frozenset()
        self._refused = RefusedPin() if refused is None else refused
        self._lost: str | None = None
        """What has befallen the files of a token, where tokens are files."""
        self._stamps: frozenset[tuple[str, int, int]] = frozenset()
        self.put_back = ""
        """Where tokens are files: which of them were put back from a copy, for a person."""

    # Session

    def open(self) -> TokenNames:
        """Initialise the module anew, select the token and log in. Drops every handle.

        Raises TokenAbsentError, TokenAmbiguousError, PinRefusedError, TokenUnavailableError or PKCS11Error.
        """
        self._own()
        self._drop()
        if not self._selection.module.exists():
            raise TokenAbsentError(f"there is no PKCS#11 module {self._library}; install it or correct token.module")
        self._look_after_files()
        self._loaded = pkcs11.lib(self._library)
        token = self._select(self._loaded)
        self._token = token
        self._mechanisms = frozenset(int(mechanism) for mechanism in token.slot.get_mechanisms())
        self._session = self._log_in(token)
        return TokenNames(token.label, token.serial.decode("ascii", errors="replace"), token.model)

    def reopen_session(self) -> None:
        """Open a session and log in anew, in the module as it is. Raises as `open` does."""
        if self._token is None:
            raise p11.SessionClosed
        session, self._session = self._session, None
        if session is not None:
            with contextlib.suppress(p11.PKCS11Error):  # it is being given up because it does not work
                session.close()
        self._look_after_files()
        self._session = self._log_in(self._token)

    def probe(self, held: Iterable[HeldKey]) -> None:
        """Ask the token for something small, and whether the handles still name their keys. Signs nothing.

        Raises PKCS11Error when it is away or a handle is stale.
        """
        # A TPM's objects are known to its module without it, SoftHSM's random numbers are: ask for both.
        with contextlib.suppress(p11.FunctionNotSupported, p11.RandomNoRNG):
            self._live().generate_random(64)
        for key in held:
            if bytes(key.private[Attribute.ID]) != key.key_id:
                raise p11.ObjectHandleInvalid
        conf = self._softhsm_conf()
        if conf is not None:
            if softhsm_files.stamps(conf) != self._stamps:
                # Another program has written: what it changed must not come back from an older copy.
                with contextlib.suppress(TokenUnavailableError):
                    self._look_after_files()
            self.put_back = softhsm_files.put_back(conf)

    def mechanisms(self) -> tuple[str, ...]:
        """What of all that is used here the token can do, as it said when it was opened."""
        return tuple(name for mechanism, name in _TOLD.items() if int(mechanism) in self._mechanisms)

    def close(self) -> None:
        """Log out and let the module go."""
        self._drop()
        with _in_use_lock:
            if self._owned:
                _in_use.discard(self._library)
                self._owned = False

    def _own(self) -> None:
        with _in_use_lock:
            if not self._owned:
                if self._library in _in_use:
                    raise TokenUnavailableError(f"{self._library} is held by another Token of this process; use one")
                _in_use.add(self._library)
                self._owned = True

    def _drop(self) -> None:
        self._token = self._session = None
        library, self._loaded = self._loaded, None
        if library is not None and library.initialized:
            # A module that cannot even end its work is initialised again all the same.
            with contextlib.suppress(p11.PKCS11Error):
                library.finalize()

    def _look_after_files(self) -> None:
        """Before a login and after keys were made. Raises TokenUnavailableError where a login might lose the token."""
        conf = self._softhsm_conf()
        if conf is not None:
            self._stamps = softhsm_files.stamps(conf)
            self._lost = softhsm_files.look_after(conf)
            self.put_back = softhsm_files.put_back(conf)

    def _softhsm_conf(self) -> Path | None:
        """What names the tokens' folder; None: another module's tokens, or nobody says where they are."""
        conf = os.environ.get("SOFTHSM2_CONF")
        return Path(conf) if conf and softhsm_files.is_softhsm(self._selection.module) else None

    def _live(self) -> pkcs11.Session:
        if self._session is None:
            raise p11.SessionClosed
        return self._session

    def _select(self, library: Library) -> pkcs11.Token:
        found = []
        for slot in library.get_slots(token_present=True):
            try:
                token = slot.get_token()
            except p11.PKCS11Error:
                continue  # a broken or blank token in another slot is none of our business
            if not token.flags & TokenFlag.TOKEN_INITIALIZED:
                continue
            if self._selection.serial is not None:
                match = token.serial == self._selection.serial.encode()
            else:
                match = token.label == self._selection.label
            if match:
                found.append(token)
        if not found:
            what_to_do = self._lost or "plug it in, or make one with init"
            raise TokenAbsentError(f"no token {self._selection} in {self._library}; {what_to_do}")
        if len(found) > 1:
            raise TokenAmbiguousError(f"{len(found)} tokens {self._selection}: {_told_apart(found)}")
        return found[0]

    def _log_in(self, token: pkcs11.Token) -> pkcs11.Session:
        if token.flags & TokenFlag.USER_PIN_LOCKED:
            raise _locked(token)
        try:
            pin = _Pin(self._read_pin())
        except Exception as error:
            raise PinRefusedError(f"the PIN cannot be read: {error}") from error
        if not pin:  # a file that somebody is writing anew: it would be a wrong try
            raise PinRefusedError("the PIN cannot be read: the secret is empty; write the PIN into it")
        if self._refused.is_it(_name_of(token), pin):
            kept = self._refused.file
            and_else = "" if kept is None else f", or delete {kept} if the token was given this PIN since"
            raise PinRefusedError(
                f"token {token.label!r} has refused this PIN, it is not tried again; correct the secret{and_else}"
            )
        if token.flags & TokenFlag.USER_PIN_FINAL_TRY:
            raise PinRefusedError(
                f"one wrong PIN more locks token {token.label!r}; log in by hand once with the right one"
            )
        try:
            session = token.open(user_pin=pin)
            self._refused.forget()
            return session
        except p11.UserAlreadyLoggedIn:
            # The login is the process's, not the session's, and outlives a lost session.
            return token.open()
        except p11.UserPinNotInitialized:
            raise PinRefusedError(f"token {token.label!r} has no user PIN yet; set one") from None
        except p11.PinLocked:
            raise _locked(token) from None
        except _PIN_ERRORS as error:
            self._refused.note(_name_of(token), pin)
            raise PinRefusedError(
                f"token {token.label!r} refuses the PIN ({type(error).__name__}); it is not tried again until the "
                "secret changes"
            ) from None

    # Keys

    def find(self, key_id: bytes) -> HeldKey:
        """The one private key with this CKA_ID. Raises KeyMissingError, KeyRefusedError or PKCS11Error."""
        private = self._one_private(key_id)
        fault = fault_of(lambda attribute: flag_of(private, attribute))
        if fault is not None:
            raise KeyRefusedError(f"key {name_of(key_id)}: {fault}")
        return HeldKey(key_id, private, self._public_half(key_id, private))

    def sign(self, key: HeldKey, payload: bytes) -> bytes:
        """The raw signature (ECDSA: r || s) over a digest, or over a message for Ed25519. Not verified yet."""
        mechanism = Mechanism.ECDSA if key.public.signs_digests else Mechanism.EDDSA
        if int(mechanism) not in self._mechanisms:
            raise KeyRefusedError(f"key {name_of(key.key_id)}: the token has no CKM_{mechanism.name}")
        assert isinstance(key.private, pkcs11.SignMixin)
        return bytes(key.private.sign(payload, mechanism=mechanism))

    def list_keys(self) -> list[TokenKey]:
        """Every private key on the token, also those that must not be used, in order of their ids."""
        keys = []
        for private in self._objects({Attribute.CLASS: ObjectClass.PRIVATE_KEY}):
            key_id, label = bytes(private[Attribute.ID]), _label_of(private)
            try:
                if private[Attribute.KEY_TYPE] == KeyType.RSA and not remains.is_hollow(private):
                    raise KeyRefusedError(f"key {name_of(key_id)}: is RSA, which opens secrets here and signs nothing")
                public = self.find(key_id).public
            except KeyRefusedError as error:
                keys.append(TokenKey(key_id=key_id, label=label, algorithm=0, public_key_der=b"", fault=str(error)))
            else:
                keys.append(
                    TokenKey(
                        key_id=key_id,
                        label=label,
                        algorithm=public.algorithm,
                        public_key_der=public.public_key_der,
                        fault=None,
                    )
                )
        return sorted(keys, key=lambda key: key.key_id)

    def generate(self, key_id: bytes, label: str, curve: Curve) -> HeldKey:
        """Make a key pair that cannot leave the token. Raises KeyExistsError, KeyRefusedError or PKCS11Error."""
        self._require_free(key_id)
        edwards = curve is Curve.ED25519
        mechanism = Mechanism.EC_EDWARDS_KEY_PAIR_GEN if edwards else Mechanism.EC_KEY_PAIR_GEN
        if int(mechanism) not in self._mechanisms:
            raise KeyRefusedError(f"key {name_of(key_id)}: the token cannot make keys on {curve.name}")
        token = self._token
        if token is None:
            raise p11.SessionClosed
        # Writing needs a session of its own; it shares the login. Signing goes on in the read-only one.
        with token.open(rw=True) as session:
            parameters = session.create_domain_parameters(
                KeyType.EC_EDWARDS if edwards else KeyType.EC, {Attribute.EC_PARAMS: curve.value}, local=True
            )
            parameters.generate_keypair(
                id=key_id,
                label=label,
                store=True,
                capabilities=MechanismFlag.SIGN | MechanismFlag.VERIFY,
                mechanism=mechanism,
                public_template=dict(_PUBLIC_TEMPLATE),
                private_template=dict(_PRIVATE_TEMPLATE),
            )
        self._look_after_files()
        return self.find(key_id)

    def wrapping_key(self, key_id: bytes) -> bytes:
        """Public half of the key that opens secrets, made now when there is none. Raises as `generate`."""
        try:
            return wrapping.public_half(self._live(), key_id)
        except KeyMissingError:
            pass
        if int(Mechanism.RSA_PKCS_OAEP) not in self._mechanisms or self._token is None:
            raise KeyRefusedError(f"key {name_of(key_id)}: the token cannot decrypt (CKM_RSA_PKCS_OAEP)")
        self._require_free(key_id)
        with self._token.open(rw=True) as session:
            wrapping.generate(session, key_id)
        self._look_after_files()
        return wrapping.public_half(self._live(), key_id)

    def unwrap(self, key_id: bytes, encrypted: bytes) -> bytes:
        """What was encrypted to the key of `wrapping_key`. Raises KeyMissingError, KeyRefusedError or PKCS11Error."""
        return wrapping.decrypt(self._live(), key_id, encrypted)

    def _require_free(self, key_id: bytes) -> None:
        """Raises KeyExistsError, KeyRefusedError or PKCS11Error."""
        if not self._objects({Attribute.ID: key_id}):
            return
        if self._token is None or not softhsm_files.is_softhsm(self._selection.module):
            raise KeyExistsError(f"key {name_of(key_id)} is there already; keys are never written over")
        with self._token.open(rw=True) as session:
            remains.remove(session, key_id)

    def _objects(self, attributes: dict[Attribute, object]) -> list[pkcs11.Object]:
        return list(self._live().get_objects(attributes))

    def _one_private(self, key_id: bytes) -> pkcs11.PrivateKey:
        found = self._objects({Attribute.CLASS: ObjectClass.PRIVATE_KEY, Attribute.ID: key_id})
        if not found:
            raise KeyMissingError(f"key {name_of(key_id)}: not on the token; make it with init")
        if len(found) > 1:
            raise KeyRefusedError(f"key {name_of(key_id)}: {len(found)} keys have this id; remove all but one")
        assert isinstance(found[0], pkcs11.PrivateKey)
        if remains.is_hollow(found[0]):
            raise KeyMissingError(f"key {name_of(key_id)}: its making was cut short; make it with init")
        return found[0]

    def _public_half(self, key_id: bytes, private: pkcs11.PrivateKey) -> PublicHalf:
        public = self._objects({Attribute.CLASS: ObjectClass.PUBLIC_KEY, Attribute.ID: key_id})
        if len(public) > 1:
            raise KeyRefusedError(f"key {name_of(key_id)}: {len(public)} public keys have this id; remove all but one")
        # Some tokens keep the point with the private key only.
        source = public[0] if public else private
        try:
            return PublicHalf(public_key_der_of(bytes(source[Attribute.EC_PARAMS]), bytes(source[Attribute.EC_POINT])))
        except p11.AttributeTypeInvalid:
            raise KeyRefusedError(f"key {name_of(key_id)}: its public half is not on the token") from None
        except (ValueError, EvidenceError) as error:
            raise KeyRefusedError(f"key {name_of(key_id)}: {error}") from error


def _name_of(token: pkcs11.Token) -> bytes:
    """Of this token and no other. All of one TPM have the TPM's serial number."""
    return token.serial + b"\0" + token.label.encode()


def _told_apart(found: list[pkcs11.Token]) -> str:
    """How to select one of several tokens."""
    serials = [token.serial.decode("ascii", errors="replace") for token in found]
    if len(set(serials)) == len(found):
        return f"select by token.serial, one of {', '.join(serials)}"
    labels = [token.label for token in found]  # of one TPM all have the TPM's serial number
    if len(set(labels)) == len(found):
        return f"select by token.label, one of {', '.join(map(repr, labels))}"
    return "neither serial number nor label tells them apart; remove all but one"


def _locked(token: pkcs11.Token) -> PinLockedError:
    return PinLockedError(
        f"token {token.label!r} takes no PIN: it has locked itself after too many wrong ones or power cuts; a TPM "
        "opens again by itself, of others the security officer must unlock it"
    )


def _label_of(thing: pkcs11.Object) -> str:
    try:
        return str(thing[Attribute.LABEL])
    except (p11.AttributeTypeInvalid, UnicodeDecodeError):
        return ""
