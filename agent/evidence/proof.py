"""A proof file: one reading in its batch, in its settlement window, and the window in a channel state.

Layout and verification: proto/EVIDENCE.md section 14. What the channel state says is for the ledger.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from agent.evidence import cbor, merkle
from agent.evidence.errors import MalformedError, ProofError, UnsupportedError
from agent.evidence.fields import Fields
from agent.evidence.kinds import SettlementWindow
from agent.evidence.verify import VerifiedStatement, Verifier
from agent.measure.reading import Reading

MAGIC: Final = "v2g-gateway/proof"
VERSION: Final = 1
MAX_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Proven:
    """A statement with its receipt."""

    statement: bytes
    receipt: bytes


@dataclass(frozen=True, slots=True)
class Path:
    """From a leaf to a root."""

    size: int
    index: int
    siblings: tuple[bytes, ...]

    def root(self, leaf: bytes) -> bytes:
        """The root that these leaf bytes lead to. Raises ProofError."""
        return merkle.root_from_path(merkle.leaf_hash(leaf), self.index, self.size, self.siblings)


def path_in(leaves: list[bytes], index: int) -> Path:
    """The path of a leaf in the tree of these."""
    tree = merkle.Tree([merkle.leaf_hash(leaf) for leaf in leaves])
    return Path(tree.size, index, tuple(tree.path(index)))


@dataclass(frozen=True, slots=True)
class WindowPart:
    """The window that a reading is in."""

    window: Proven
    path: Path
    """Of the reading, to the window's `readings_root`."""


@dataclass(frozen=True, slots=True)
class ChannelPart:
    """The channel state that a window is in."""

    signed_state: bytes
    """As `agent.ledger.state.SignedState` encodes it: state, the gateway's signature, the platform's."""
    path: Path
    """Of the window's statement, to the state's `windows_root`."""
    device_key_der: bytes
    """Whoever trusts it knows it from elsewhere: the state names its hash."""


@dataclass(frozen=True, slots=True)
class ProofFile:
    """As read; nothing in it is proven yet."""

    gateway_id: str
    public_keys_der: tuple[bytes, ...]
    reading: Proven
    window: WindowPart | None
    channel: ChannelPart | None

    def encode(self) -> bytes:
        """The file."""
        w, c = self.window, self.channel
        return cbor.encode(
            [
                MAGIC, VERSION, self.gateway_id, list(self.public_keys_der),
                [self.reading.statement, self.reading.receipt],
                None if w is None else [w.window.statement, w.window.receipt, _path_value(w.path)],
                None if c is None else [c.signed_state, _path_value(c.path), c.device_key_der],
            ]
        )  # fmt: skip


def decode_proof(encoded: bytes) -> ProofFile:
    """Raises MalformedError, UnsupportedError."""
    value = cbor.decode(encoded, what="proof", most_bytes=MAX_BYTES)
    try:
        f = Fields(value if isinstance(value, list) else [])
        if f.text() != MAGIC:
            raise ValueError(f"does not begin with [{MAGIC!r}, {VERSION}, ...]")
        if (version := f.number()) != VERSION:
            raise UnsupportedError(f"proof: version {version}, {VERSION} is known here")
        gateway_id = f.text()
        keys = tuple(Fields([key]).octets() for key in f.items())
        r = Fields(f.items())
        reading = Proven(r.octets(), r.octets())
        r.end()
        window, channel = None, None
        if (w := _part(f)) is not None:
            window = WindowPart(Proven(w.octets(), w.octets()), _path(w.items()))
            w.end()
        if (c := _part(f)) is not None:
            channel = ChannelPart(c.octets(), _path(c.items()), c.octets())
            c.end()
        f.end()
    except (ValueError, TypeError) as error:
        raise MalformedError(f"proof: {error}") from error
    if channel is not None and window is None:
        raise MalformedError("proof: a channel state without the window that it is about")
    return ProofFile(gateway_id, keys, reading, window, channel)


@dataclass(frozen=True, slots=True)
class VerifiedProof:
    """What a proof file proves under the keys that the verifier trusts, without its channel."""

    reading: VerifiedStatement
    window: VerifiedStatement | None


def verify_proof(proof: ProofFile, verifier: Verifier) -> VerifiedProof:
    """Check the reading, and that the window holds it. Raises EvidenceError."""
    reading = verifier.verify_receipt(proof.reading.receipt, proof.reading.statement)
    _of_gateway(reading, proof.gateway_id)
    r = reading.statement
    if not isinstance(r, Reading):
        raise ProofError("proof: what is said to be a reading is none")
    if proof.window is None:
        return VerifiedProof(reading, None)
    window = verifier.verify_receipt(proof.window.window.receipt, proof.window.window.statement)
    _of_gateway(window, proof.gateway_id)
    w = window.statement
    if not isinstance(w, SettlementWindow):
        raise ProofError("proof: what is said to be a settlement window is none")
    first, last = w.first_sequence, w.last_sequence
    if w.device_id != r.device_id or first is None or last is None or not first <= r.sequence <= last:
        raise ProofError(f"proof: reading {r.sequence} of {r.device_id[:64]} does not belong to this window")
    if proof.window.path.size != w.reading_count:
        raise ProofError(
            f"proof: path in a tree of {proof.window.path.size} readings, the signed window has {w.reading_count}"
        )
    if proof.window.path.root(proof.reading.statement) != w.readings_root:
        raise ProofError("proof: the path does not lead from the reading to the window's signed root")
    return VerifiedProof(reading, window)


def _of_gateway(verified: VerifiedStatement, gateway_id: str) -> None:
    if verified.batch.gateway_id != gateway_id:
        raise ProofError(
            f"proof: is said to be of {gateway_id[:80]}, and was sealed by {verified.batch.gateway_id[:80]}"
        )


def _part(f: Fields) -> Fields | None:
    """An array or null."""
    return None if f.none() else Fields(f.items())


def _path_value(path: Path) -> list[cbor.Value]:
    return [path.size, path.index, list(path.siblings)]


def _path(items: list[cbor.Value]) -> Path:
    f = Fields(items)
    path = Path(f.ordinal(), f.count(), tuple(Fields([item]).octets(merkle.HASH_BYTES) for item in f.items()))
    f.end()
    return path
