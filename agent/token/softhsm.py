"""Making a SoftHSM token: its folder, its configuration, and the initialisation, with PINs in no argument list.

SoftHSM is the token of a site without hardware: keys are files, protected by the PIN and by the folder's mode.
python-pkcs11 cannot initialise a token (C_InitToken), so softhsm2-util does it, and asks for the PINs on a terminal
that we play.
"""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import subprocess
import time
from pathlib import Path
from typing import Final

from agent.token import softhsm_files
from agent.token.errors import TokenError, TokenUnavailableError

UTILITY: Final = "softhsm2-util"
MOST_LABEL_BYTES: Final = 32
LEAST_PIN: Final = 4
MOST_PIN: Final = 255
ANSWER_S: Final = 30.0

_PROMPT: Final = re.compile(rb"(SO PIN|user PIN)[^\r\n]*: ?$")


class SoftHsmError(TokenError):
    """softhsm2-util did not do what was asked. The message has its own words, and never a PIN."""


class TokenExistsError(SoftHsmError):
    """A token with this label is there already."""


def write_softhsm_conf(folder: Path) -> Path:
    """Make `folder` (mode 0700) with `tokens` in it, and its softhsm2.conf; gives the path for SOFTHSM2_CONF.

    An existing configuration is left as it is.
    """
    tokens = folder / "tokens"
    tokens.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.chmod(0o700)
    conf = folder / "softhsm2.conf"
    if not conf.exists():
        conf.write_text(
            f"directories.tokendir = {tokens}\n"
            "objectstore.backend = file\n"
            "log.level = ERROR\n"
            "slots.removable = false\n",
            encoding="utf-8",
        )
    return conf


def init_softhsm_token(*, module: Path, label: str, so_pin: str, user_pin: str, conf: Path) -> str:
    """Initialise a new token and give its serial number. Blocks for about a second.

    conf: what SOFTHSM2_CONF is to say. Raises TokenExistsError or SoftHsmError.
    """
    if not 1 <= len(label.encode()) <= MOST_LABEL_BYTES or not label.isprintable():
        raise SoftHsmError(f"token label {label[:60]!r}: 1 to {MOST_LABEL_BYTES} bytes of printable text are right")
    for pin in (so_pin, user_pin):
        if not LEAST_PIN <= len(pin) <= MOST_PIN or not pin.isascii() or not pin.isprintable():
            raise SoftHsmError(f"a PIN has {LEAST_PIN} to {MOST_PIN} printable ASCII characters")
    if label in token_labels(module=module, conf=conf):
        raise TokenExistsError(f"token {label!r} is there already; choose another label or use it as it is")
    lost = _looked_after(conf)
    if lost is not None:
        raise SoftHsmError(f"{lost}; until then no token is made here, for it may be the one that is to be made")
    before = _serials(module, conf)
    arguments = [UTILITY, "--module", str(module), "--init-token", "--free", "--label", label]
    code, said = _on_terminal(arguments, conf, {b"SO PIN": so_pin, b"user PIN": user_pin})
    if code != 0:
        raise SoftHsmError(f"{UTILITY} could not make token {label!r}: {said}")
    made = _serials(module, conf) - before
    if len(made) != 1:
        raise SoftHsmError(f"{UTILITY} said that it made token {label!r}, and {len(made)} new ones are there")
    _looked_after(conf)
    return made.pop()


def token_labels(*, module: Path, conf: Path) -> list[str]:
    """Labels of the initialised tokens. Mends what can be mended. Raises SoftHsmError."""
    _looked_after(conf)
    shown = re.findall(r"^\s*Label:[ ]*(\S.*)$", _show_slots(module, conf), re.MULTILINE)
    # One that another process logs in to at this moment is not shown.
    return list(dict.fromkeys([*(found.strip() for found in shown), *softhsm_files.kept_labels(conf)]))


def _looked_after(conf: Path) -> str | None:
    try:
        return softhsm_files.look_after(conf)
    except TokenUnavailableError as error:
        raise SoftHsmError(str(error)) from error


def _serials(module: Path, conf: Path) -> set[str]:
    return set(re.findall(r"^\s*Serial number:[ ]*(\S+)", _show_slots(module, conf), re.MULTILINE))


def _show_slots(module: Path, conf: Path) -> str:
    try:
        shown = subprocess.run(
            [UTILITY, "--module", str(module), "--show-slots"],
            env=_environment(conf),
            capture_output=True,
            check=True,
            timeout=ANSWER_S,
        )
    except FileNotFoundError:
        raise SoftHsmError(f"{UTILITY} is not installed; install the package softhsm2") from None
    except subprocess.TimeoutExpired:
        raise SoftHsmError(f"{UTILITY} --show-slots did not end within {ANSWER_S:g} s") from None
    except subprocess.CalledProcessError as error:
        raise SoftHsmError(f"{UTILITY} --show-slots failed: {_words(error.stdout + error.stderr)}") from None
    return shown.stdout.decode("utf-8", errors="replace")


def _environment(conf: Path) -> dict[str, str]:
    return {**os.environ, "SOFTHSM2_CONF": str(conf), "LC_ALL": "C"}


def _on_terminal(arguments: list[str], conf: Path, answers: dict[bytes, str]) -> tuple[int, str]:
    """Run a program on a terminal of its own and answer its prompts; gives its exit code and its words."""
    ours, its = pty.openpty()
    try:
        try:
            program = subprocess.Popen(
                arguments, env=_environment(conf), stdin=its, stdout=its, stderr=its, start_new_session=True
            )
        except FileNotFoundError:
            raise SoftHsmError(f"{UTILITY} is not installed; install the package softhsm2") from None
        finally:
            os.close(its)
        with program:
            try:
                said = _converse(ours, answers)
                for secret in answers.values():  # a terminal may echo
                    said = said.replace(secret.encode(), b"***")
                return program.wait(ANSWER_S), _words(said)
            except (TimeoutError, subprocess.TimeoutExpired):
                raise SoftHsmError(f"{UTILITY} did not end within {ANSWER_S:g} s") from None
            finally:
                program.kill()
    finally:
        os.close(ours)


def _converse(terminal: int, answers: dict[bytes, str]) -> bytes:
    """Answer prompts until the program closes its end; gives all that it said."""
    said, answered = b"", 0
    deadline_s = time.monotonic() + ANSWER_S
    while True:
        ready, _, _ = select.select([terminal], [], [], max(0.0, deadline_s - time.monotonic()))
        if not ready:
            raise TimeoutError
        heard = b""
        with contextlib.suppress(OSError):  # Linux reports the other end's close of a terminal as EIO
            heard = os.read(terminal, 4096)
        if not heard:
            return said
        said += heard
        prompt = _PROMPT.search(said[answered:])
        if prompt is not None:
            os.write(terminal, answers[prompt.group(1)].encode() + b"\n")
            answered = len(said)


def _words(said: bytes) -> str:
    return " ".join(said.decode("utf-8", errors="replace").split())[-300:]
