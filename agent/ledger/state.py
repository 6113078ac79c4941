"""The channel state: what gateway and platform both sign. Layouts, type string and rules: proto/CHANNELS.md.

Two encodings of one thing: deterministic CBOR on the wire and in the store, EIP-712 for the digest that is signed.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from agent.evidence import cbor
from agent.evidence.cose import VerifyKey
from agent.evidence.errors import MalformedError
from agent.evidence.fields import Fields
from agent.ledger import eip712
from agent.ledger.errors import ChannelError
from agent.measure.reading import Quality

VERSION: Final = 1
MAX_STATE_BYTES: Final = 4096
NO_PREVIOUS: Final = bytes(32)
"""Previous hash of the first state that both signed."""

DOMAIN_NAME: Final = "V2G Settlement Channel"
DOMAIN_VERSION: Final = "1"
DOMAIN_TYPE: Final = "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
STATE_TYPE: Final = (
    "ChannelState(bytes32 channelId,address participant,address counterparty,bytes32 agreementHash,"
    "uint64 incarnation,uint64 version,bytes32 previousHash,uint64 windowStart,uint64 windowEnd,"
    "uint256 importWh,uint256 exportWh,int256 netWh,uint32 meterEpoch,bytes32 windowsRoot,uint32 quality,"
    "bool isFinal,int32 algorithm,bytes32 keyId)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelTerms:
    """What does not change over the life of a channel. Both sides know it from enrolment and configuration."""

    gateway_id: str
    device_id: str
    chain_id: int
    contract: bytes
    """20 bytes."""
    participant: bytes
    """20 bytes: who is settled."""
    counterparty: bytes
    """20 bytes: who settles."""
    agreement_hash: bytes
    """32 bytes."""

    @property
    def channel_id(self) -> bytes:
        """32 bytes: SHA-256 over the terms, so that other terms are another channel."""
        return hashlib.sha256(
            cbor.encode(
                [
                    "v2g-gateway/channel", VERSION, self.gateway_id, self.device_id, self.chain_id, self.contract,
                    self.participant, self.counterparty, self.agreement_hash,
                ]
            )
        ).digest()  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelState:
    """One state. (channel_id, incarnation, version) names it; there are never two different ones of one name."""

    chain_id: int
    contract: bytes
    channel_id: bytes
    participant: bytes
    counterparty: bytes
    agreement_hash: bytes
    incarnation: int
    """Of the gateway's store; never falls."""
    version: int
    """From 1; rises over incarnations too; a version may be skipped, never reused."""
    previous_hash: bytes
    """Digest of the state before it that both signed; zeros for the first."""
    window_start_us: int
    """Start of the first window that this state adds."""
    window_end_us: int
    """End of the last window that this state adds."""
    import_wh: int
    """Cumulative since the channel began."""
    export_wh: int
    """Cumulative since the channel began."""
    net_wh: int
    """import_wh - export_wh."""
    meter_epoch: int
    """Of the last window."""
    windows_root: bytes
    """RFC 9162 root over the window statements that this state adds, in order of time."""
    quality: Quality
    """Union over these windows."""
    final: bool
    """Nothing follows."""
    algorithm: int
    """COSE number of the gateway's signature."""
    key_id: bytes
    """SHA-256 of the SubjectPublicKeyInfo of the device's key."""

    @property
    def order(self) -> tuple[int, int]:
        """What must rise from state to state."""
        return self.incarnation, self.version

    def encode(self) -> bytes:
        """The wire form."""
        return cbor.encode(
            [
                VERSION, self.chain_id, self.contract, self.channel_id, self.participant, self.counterparty,
                self.agreement_hash, self.incarnation, self.version, self.previous_hash, self.window_start_us,
                self.window_end_us, self.import_wh, self.export_wh, self.net_wh, self.meter_epoch, self.windows_root,
                int(self.quality), self.final, self.algorithm, self.key_id,
            ]
        )  # fmt: skip

    @property
    def digest(self) -> bytes:
        """The EIP-712 digest: what is signed, and what the next state names as previous. 32 bytes."""
        domain = eip712.hash_struct(
            DOMAIN_TYPE,
            [
                ("string", DOMAIN_NAME),
                ("string", DOMAIN_VERSION),
                ("uint256", self.chain_id),
                ("address", self.contract),
            ],
        )
        struct = eip712.hash_struct(
            STATE_TYPE,
            [
                ("bytes32", self.channel_id),
                ("address", self.participant),
                ("address", self.counterparty),
                ("bytes32", self.agreement_hash),
                ("uint64", self.incarnation),
                ("uint64", self.version),
                ("bytes32", self.previous_hash),
                ("uint64", self.window_start_us),
                ("uint64", self.window_end_us),
                ("uint256", self.import_wh),
                ("uint256", self.export_wh),
                ("int256", self.net_wh),
                ("uint32", self.meter_epoch),
                ("bytes32", self.windows_root),
                ("uint32", int(self.quality)),
                ("bool", self.final),
                ("int32", self.algorithm),
                ("bytes32", self.key_id),
            ],
        )
        return eip712.digest_of(domain, struct)

    def has_terms(self, terms: ChannelTerms) -> bool:
        """Whether this is a state of the channel with these terms."""
        return (
            self.channel_id, self.chain_id, self.contract, self.participant, self.counterparty, self.agreement_hash
        ) == (
            terms.channel_id, terms.chain_id, terms.contract, terms.participant, terms.counterparty,
            terms.agreement_hash,
        )  # fmt: skip

    def __str__(self) -> str:
        return f"channel {self.channel_id.hex()[:16]} state {self.incarnation}.{self.version}"


@dataclass(frozen=True, slots=True)
class SignedState:
    """A state and the signatures over its digest (r || s). An empty one is not there yet."""

    state: ChannelState
    gateway_signature: bytes = b""
    platform_signature: bytes = b""

    def encode(self) -> bytes:
        """As kept in the store."""
        return cbor.encode([VERSION, self.state.encode(), self.gateway_signature, self.platform_signature])

    def verify(self, device_key: VerifyKey, platform_key: VerifyKey | None = None) -> None:
        """Check the gateway's signature, and the platform's where its key is given. Raises ChannelError."""
        if (self.state.algorithm, self.state.key_id) != (device_key.algorithm, device_key.key_id):
            raise ChannelError(f"{self.state}: names another algorithm or key than the device's enrolled one")
        eip712.verify_digest(device_key, self.state.digest, self.gateway_signature)
        if platform_key is not None:
            eip712.verify_digest(platform_key, self.state.digest, self.platform_signature)


def decode_state(encoded: bytes) -> ChannelState:
    """Reads the wire form and checks what one state can be checked for alone. Raises ChannelError."""
    try:
        value = cbor.decode(encoded, what="channel state", most_bytes=MAX_STATE_BYTES)
        if not isinstance(value, list):
            raise TypeError("not an array")
        f = Fields(value)
        if (version := f.count()) != VERSION:
            raise ValueError(f"format version {version} is not known here")
        state = ChannelState(
            chain_id=f.ordinal(),
            contract=f.octets(20),
            channel_id=f.octets(32),
            participant=f.octets(20),
            counterparty=f.octets(20),
            agreement_hash=f.octets(32),
            incarnation=f.ordinal(),
            version=f.ordinal(),
            previous_hash=f.octets(32),
            window_start_us=f.count(),
            window_end_us=f.count(),
            import_wh=f.count(),
            export_wh=f.count(),
            net_wh=f.number(),
            meter_epoch=_below(f.count(), 1 << 32, "meter epoch"),
            windows_root=f.octets(32),
            quality=Quality(_below(f.count(), 1 << 32, "quality")),
            final=f.flag(),
            algorithm=_below(f.number(), 1 << 31, "algorithm"),
            key_id=f.octets(32),
        )
        f.end()
        if state.algorithm < -(1 << 31):
            raise ValueError("algorithm is out of range")
        if state.window_end_us <= state.window_start_us:
            raise ValueError("its window ends before it starts")
        if state.net_wh != state.import_wh - state.export_wh:
            raise ValueError("net_wh is not import_wh - export_wh")
    except (MalformedError, ValueError, TypeError) as error:
        raise ChannelError(f"channel state: {str(error)[:200]}") from error
    return state


def decode_signed(encoded: bytes) -> SignedState:
    """Reads what `SignedState.encode` made. Raises ChannelError; no signature is verified."""
    try:
        value = cbor.decode(encoded, what="signed channel state", most_bytes=MAX_STATE_BYTES)
        if not isinstance(value, list):
            raise TypeError("not an array")
        f = Fields(value)
        if (version := f.count()) != VERSION:
            raise ValueError(f"format version {version} is not known here")
        signed = SignedState(decode_state(f.octets()), f.octets(), f.octets())
        f.end()
    except (MalformedError, ValueError, TypeError) as error:
        raise ChannelError(f"signed channel state: {str(error)[:200]}") from error
    return signed


def _below(value: int, limit: int, name: str) -> int:
    if value >= limit:
        raise ValueError(f"{name} is out of range")
    return value
