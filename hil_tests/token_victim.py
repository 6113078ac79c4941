"""A process that owns a token, for tests that kill it or have it fork: `python -m hil_tests.token_victim KEY MODE`."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

from agent.evidence.cose import verify_key_of
from agent.token.errors import TokenUnavailableError
from agent.token.token import Token

WITHIN_S = 30.0
FORKS = 5
AT_ONCE_S = 5.0
"""Nobody answers in a fork: whoever waited for the signature would wait for WITHIN_S."""


async def main(key_id: bytes, mode: str) -> int:
    token = Token(
        module=Path(os.environ["VICTIM_MODULE"]),
        label=os.environ["VICTIM_LABEL"],
        read_pin=lambda: os.environ["VICTIM_PIN"],
    )
    token.start()
    await asyncio.wait_for(token.wait_ready(), WITHIN_S)
    if mode == "make":
        await token.create_key(key_id)
        await token.wrapping_key(b"wrapping " + key_id)
        await token.close()
        return 0
    signer = token.signer(key_id)
    await signer.sign(b"first")
    if mode == "sign":
        while True:
            await signer.sign(b"again")
            print("signed", flush=True)
    if mode == "fork while signing":
        return await _forked_while_signing(token, key_id)
    child = os.fork()
    if child == 0:
        os._exit(_in_the_fork(token, key_id))
    _, status = await asyncio.to_thread(os.waitpid, child, 0)
    verify_key_of(signer.public_key_der).verify(b"after", await signer.sign(b"after"))
    await token.close()
    return os.waitstatus_to_exitcode(status)


async def _forked_while_signing(token: Token, key_id: bytes) -> int:
    """0: each of some forks was refused at once, and every signature verified."""
    signer = token.signer(key_id)
    verifier, codes = verify_key_of(signer.public_key_der), []
    for number in range(FORKS):
        message = bytes([number])
        signing = [asyncio.create_task(signer.sign(message)) for _ in range(20)]
        await signing[0]
        child = os.fork()
        if child == 0:
            os._exit(_in_the_fork(token, key_id))
        _, status = await asyncio.to_thread(os.waitpid, child, 0)
        codes.append(os.waitstatus_to_exitcode(status))
        for signature in await asyncio.gather(*signing):
            verifier.verify(message, signature)
    await token.close()
    return max(codes)


def _in_the_fork(token: Token, key_id: bytes) -> int:
    """0: it was refused at once."""
    began_s = time.monotonic()
    try:
        token.sign_blocking(key_id, bytes(32), WITHIN_S)
    except TokenUnavailableError as error:
        return 0 if "fork" in str(error) and time.monotonic() - began_s < AT_ONCE_S else 2
    return 3


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1].encode(), sys.argv[2])))
