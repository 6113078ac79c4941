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


@dataclass(frozen=True, slots=True)
class Quote:
    """As `tpm2_checkquote` takes it."""

    key_pem: bytes
    """The attestation key's public half. It proves this TPM to whoever has seen it before, at enrolment."""
    message: bytes
    """TPMS_ATTEST: the nonce and a digest over the PCRs, with the TPM's clock and count of resets."""
    signature: bytes
    """TPMT_SIGNATURE over the message, ECDSA."""
    pcrs: bytes
    """The PCRs themselves."""


def quote(nonce: bytes) -> Quote:
    """A quote over a nonce of who asks. Raises TpmError, also where there is no TPM; ValueError for a bad nonce."""
    if not LEAST_NONCE_BYTES <= len(nonce) <= MOST_NONCE_BYTES:
        raise ValueError(f"a nonce has {LEAST_NONCE_BYTES} to {MOST_NONCE_BYTES} bytes, this one has {len(nonce)}")
    with working_folder() as folder:
        (folder / "nonce").write_bytes(nonce)
        for command in (_KEY, _PUBLIC, _QUOTE):
            run(command, folder)
        try:
            return Quote(*((folder / name).read_bytes() for name in ("key.pem", "message", "signature", "pcrs")))
        except OSError as error:
            raise TpmError(f"tpm2_quote wrote no {error.filename}") from error


def is_there() -> bool:
    """Whether this machine has a TPM and the tools for it; whether it answers, only asking tells."""
    has_tpm = any(device.exists() for device in _DEVICES) or "TPM2TOOLS_TCTI" in os.environ
    return has_tpm and all(shutil.which(tool) is not None for tool in _TOOLS)


def quote_for_evidence(nonce: bytes) -> TpmQuote:
    """A quote as a statement holds it, which was checked as a verifier does. Raises TpmError."""
    with working_folder() as folder:
        (folder / "nonce").write_bytes(nonce)
        for command in (_KEY, _AREA, _QUOTE, _VALUES):
            run(command, folder)
        try:
            area, message, signature, values = (
                (folder / name).read_bytes() for name in ("key.area", "message", "signature", "values")
            )
        except OSError as error:
            raise TpmError(f"tpm2_quote wrote no {error.filename}") from error
    pcrs = tuple(values[at : at + _PCR_BYTES] for at in range(0, len(values), _PCR_BYTES))
    # The tools write a TPM2B_PUBLIC: the length first.
    made = TpmQuote(public=area[2:], message=message, signature=signature, pcrs=pcrs)
    try:
        check_quote(made, nonce)
    except ProofError as error:  # such as a PCR that changed between the quote and its reading
        raise TpmError(f"what the TPM gave does not hold: {error}") from error
    return made
