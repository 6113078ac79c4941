"""What this machine booted, in the TPM's own words: a quote over the boot PCRs and a nonce, through tpm2-tools.

The attestation key is a restricted primary key of the endorsement hierarchy: made anew each time from the TPM's seed,
it is the same one on the same TPM, and signs nothing but what the TPM itself says. Nothing is kept. All of this blocks.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.evidence.errors import ProofError
from agent.evidence.kinds import TpmQuote
from agent.evidence.tpm_quote import check_quote
from agent.token.tpm import TpmError, run, working_folder

PCRS: Final = "sha256:0,1,2,3,4,5,6,7,8,9"
"""Firmware, its settings, boot loader, secure boot, kernel command line, initial ramdisk (TCG PC Client, GRUB)."""
LEAST_NONCE_BYTES: Final = 8
MOST_NONCE_BYTES: Final = 32

_KEY: Final = (
    "tpm2_createprimary", "-Q", "-C", "e", "-g", "sha256", "-G", "ecc:ecdsa-sha256:null",
    "-a", "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|restricted|sign", "-c", "key.ctx",
)  # fmt: skip
_PUBLIC: Final = ("tpm2_readpublic", "-Q", "-c", "key.ctx", "-f", "pem", "-o", "key.pem")
_AREA: Final = ("tpm2_readpublic", "-Q", "-c", "key.ctx", "-f", "tss", "-o", "key.area")
_VALUES: Final = ("tpm2_pcrread", "-Q", PCRS, "-o", "values")
_TOOLS: Final = ("tpm2_createprimary", "tpm2_readpublic", "tpm2_quote", "tpm2_pcrread")
_DEVICES: Final = (Path("/dev/tpmrm0"), Path("/dev/tpm0"))
_PCR_BYTES: Final = 32
_QUOTE: Final = (
    "tpm2_quote", "-Q", "-c", "key.ctx", "-l", PCRS, "-g", "sha256", "-q", "nonce", "-m", "message", "-s", "signature",
    "-o", "pcrs",
)  # fmt: skip


_ENDORSEMENT_KEY: Final = ("tpm2_createek", "-Q", "-G", "rsa", "-c", "ek.ctx")
_ENDORSEMENT_CERTIFICATE: Final = ("tpm2_nvread", "-Q", "0x01c00002", "-o", "ek.crt")
"""Where TPMs keep the certificate of their RSA-2048 endorsement key (TCG EK Credential Profile, section 2.2.1.4)."""
_SESSION: Final = ("tpm2_startauthsession", "-Q", "--policy-session", "-S", "session.ctx")
_POLICY: Final = ("tpm2_policysecret", "-Q", "-S", "session.ctx", "-c", "e")
_ACTIVATE: Final = (
    "tpm2_activatecredential", "-Q", "-c", "key.ctx", "-C", "ek.ctx", "-P", "session:session.ctx", "-i", "credential",
    "-o", "secret",
)  # fmt: skip
_END_SESSION: Final = ("tpm2_flushcontext", "session.ctx")
_SLOW_S: Final = 180.0
"""Some TPMs need a minute and more for an RSA key."""


@dataclass(frozen=True, slots=True)
class Quote:
    """As `tpm2_checkquote` takes it, and as `v2g-gateway challenge` does."""

    key_pem: bytes
    """The attestation key's public half. It proves this TPM to whoever has seen it before, at enrolment."""
    message: bytes
    """TPMS_ATTEST: the nonce and a digest over the PCRs, with the TPM's clock and count of resets."""
    signature: bytes
    """TPMT_SIGNATURE over the message, ECDSA."""
    pcrs: bytes
    """The PCRs as the tools keep them."""
    area: bytes
    """TPM2B_PUBLIC of the attestation key."""
    values: bytes
    """The PCRs themselves, one after the other."""

    def as_evidence(self) -> TpmQuote:
        """As a statement holds it."""
        pcrs = tuple(self.values[at : at + _PCR_BYTES] for at in range(0, len(self.values), _PCR_BYTES))
        # Before the public area stands its length.
        return TpmQuote(public=self.area[2:], message=self.message, signature=self.signature, pcrs=pcrs)


def quote(nonce: bytes) -> Quote:
    """A quote over a nonce of who asks. Raises TpmError, also where there is no TPM; ValueError for a bad nonce."""
    if not LEAST_NONCE_BYTES <= len(nonce) <= MOST_NONCE_BYTES:
        raise ValueError(f"a nonce has {LEAST_NONCE_BYTES} to {MOST_NONCE_BYTES} bytes, this one has {len(nonce)}")
    with working_folder() as folder:
        run(_KEY, folder)
        return _quote(folder, nonce)


def answer(credential: bytes) -> Quote:
    """A quote over the secret of a credential, which is for this TPM's two keys or is not opened. Raises TpmError."""
    with working_folder() as folder:
        (folder / "credential").write_bytes(credential)
        run(_ENDORSEMENT_KEY, folder, within_s=_SLOW_S)
        run(_KEY, folder)
        run(_SESSION, folder)
        try:
            run(_POLICY, folder)
            run(_ACTIVATE, folder)
        finally:
            run(_END_SESSION, folder)
        secret = _read(folder, "secret")[0]
        if not LEAST_NONCE_BYTES <= len(secret) <= MOST_NONCE_BYTES:
            raise TpmError(f"the credential holds {len(secret)} bytes, which is no challenge for a quote")
        return _quote(folder, secret)


def endorsement_certificate() -> bytes:
    """The certificate of the TPM's maker, DER, as the TPM keeps it. Raises TpmError where it keeps none."""
    with working_folder() as folder:
        run(_ENDORSEMENT_CERTIFICATE, folder)
        return _read(folder, "ek.crt")[0]


def quote_for_evidence(nonce: bytes) -> TpmQuote:
    """A quote as a statement holds it, which was checked as a verifier does. Raises TpmError."""
    made = quote(nonce).as_evidence()
    try:
        check_quote(made, nonce)
    except ProofError as error:  # such as a PCR that changed between the quote and its reading
        raise TpmError(f"what the TPM gave does not hold: {error}") from error
    return made


def _quote(folder: Path, nonce: bytes) -> Quote:
    """With the attestation key at hand."""
    (folder / "nonce").write_bytes(nonce)
    for command in (_PUBLIC, _AREA, _QUOTE, _VALUES):
        run(command, folder)
    return Quote(*_read(folder, "key.pem", "message", "signature", "pcrs", "key.area", "values"))


def _read(folder: Path, *names: str) -> list[bytes]:
    try:
        return [(folder / name).read_bytes() for name in names]
    except OSError as error:
        raise TpmError(f"the TPM's tools wrote no {error.filename}") from error


def is_there() -> bool:
    """Whether this machine has a TPM and the tools for it; whether it answers, only asking tells."""
    has_tpm = any(device.exists() for device in _DEVICES) or "TPM2TOOLS_TCTI" in os.environ
    return has_tpm and all(shutil.which(tool) is not None for tool in _TOOLS)
