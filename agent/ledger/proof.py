"""The last step of a proof file: the channel state that settles its window. Verification: proto/EVIDENCE.md section 14.

The steps before it, reading and window, are for `agent.evidence.proof`.
"""

from __future__ import annotations

from agent.evidence.cose import VerifyKey, key_id_of, verify_key_of
from agent.evidence.errors import ProofError
from agent.evidence.proof import ChannelPart
from agent.evidence.statements import SettlementWindow
from agent.evidence.verify import VerifiedStatement
from agent.ledger.state import ChannelTerms, SignedState, decode_signed


def verify_channel(
    part: ChannelPart, window: VerifiedStatement, *, device_key: VerifyKey | None, platform_key: VerifyKey | None
) -> SignedState:
    """That the state is of the window's device and gateway, has the window in it, and who signed it.

    Without `device_key` the one in the file is taken: that it is the enrolled one is then not proven. Without
    `platform_key` the platform's signature is not looked at. Raises EvidenceError, ChannelError.
    """
    signed = decode_signed(part.signed_state)
    state, w = signed.state, window.statement
    if not isinstance(w, SettlementWindow):
        raise ProofError("proof: what is said to be a settlement window is none")
    terms = ChannelTerms(
        gateway_id=window.batch.gateway_id,
        device_id=w.device_id,
        chain_id=state.chain_id,
        contract=state.contract,
        participant=state.participant,
        counterparty=state.counterparty,
        agreement_hash=state.agreement_hash,
    )
    if not state.has_terms(terms):
        raise ProofError(f"proof: the channel state is not of {w.device_id[:64]} at the gateway that sealed the window")
    if part.path.root(window.encoded) != state.windows_root:
        raise ProofError("proof: the path does not lead from the window to the root of the channel state")
    if not (state.window_start_us <= w.window_start_us and w.window_end_us <= state.window_end_us):
        raise ProofError("proof: the window is not of the time that the channel state adds")
    if device_key is None:
        if key_id_of(part.device_key_der) != state.key_id:
            raise ProofError("proof: the key in the file is not the one that the channel state names")
        verify_key_of(part.device_key_der)  # Raises when it is no key at all.
        device_key = VerifyKey(state.algorithm, part.device_key_der)
    signed.verify(device_key, platform_key)
    return signed
