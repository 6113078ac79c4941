"""A TPM 2.0 in software behind PKCS#11: swtpm, a resource manager on a private D-Bus, and tpm2-pkcs11.

All of one process share one bus: the libraries keep their first connection to it for as long as the process lives.

The resource manager does what the kernel's /dev/tpmrm0 does on a real machine; without it the TPM runs out of object
slots (error 0x902).
"""

from __future__ import annotations

import atexit
import functools
import itertools
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from hil_tests.rig.tie import start_tied

PROGRAMS: Final = ("swtpm", "swtpm_setup", "tpm2-abrmd", "dbus-daemon", "tpm2_ptool")
_MODULES: Final = (
    Path("/usr/lib/x86_64-linux-gnu/pkcs11/libtpm2_pkcs11.so"),
    Path("/usr/lib/aarch64-linux-gnu/pkcs11/libtpm2_pkcs11.so"),
    Path("/usr/lib/x86_64-linux-gnu/libtpm2_pkcs11.so.1"),
    Path("/usr/lib/aarch64-linux-gnu/libtpm2_pkcs11.so.1"),
)
START_S: Final = 20.0
_NUMBERS: Final = itertools.count(1)


def tpm_module() -> Path | None:
    """The tpm2-pkcs11 module; None when it or one of the programs is not installed."""
    if any(shutil.which(program) is None for program in PROGRAMS):
        return None
    return next((path for path in _MODULES if path.exists()), None)


class SoftTpm:
    """A running TPM with one initialised token. `close` ends everything that was started."""

    def __init__(self, folder: Path, *, label: str = "v2g-rig-tpm", makers: Path | None = None) -> None:
        """`makers`: a folder with the authority of its maker, made there if need be; None: nobody certifies it."""
        module = tpm_module()
        if module is None:
            raise RuntimeError(f"tpm2-pkcs11 or one of {', '.join(PROGRAMS)} is not installed")
        self.module = module
        self.label = label
        self.pin = str(secrets.randbelow(9 * 10**7) + 10**7)
        self._so_pin = str(secrets.randbelow(9 * 10**7) + 10**7)
        self._makers = None if makers is None else makers.resolve()
        self._folder = folder.resolve()  # swtpm wants absolute paths
        self._state, self._store = self._folder / "state", self._folder / "store"
        self._manager = f"com.intel.tss2.Tabrmd{next(_NUMBERS)}"
        self._programs: list[subprocess.Popen[bytes]] = []
        self._state.mkdir(parents=True, mode=0o700)
        self._store.mkdir(mode=0o700)
        try:
            self._make()
        except BaseException:
            self.close()
            raise

    @property
    def environment(self) -> dict[str, str]:
        tcti = f"tabrmd:bus_name={self._manager},bus_type=session"
        return {
            "DBUS_SESSION_BUS_ADDRESS": _bus(),
            "TPM2TOOLS_TCTI": tcti,
            "TPM2_PKCS11_TCTI": tcti,
            "TPM2_PKCS11_STORE": str(self._store),
            "TPM2_PKCS11_LOG_LEVEL": "0",
        }

    def take_away(self) -> None:
        """End the TPM and its resource manager; the bus stays, as a kernel would."""
        self.close()

    def put_back(self) -> None:
        self._power_on()

    def lock_after(self, tries: int, recovery_s: int) -> None:
        """Lock itself after so many wrong tries of a PIN, of which one is forgiven after each `recovery_s`."""
        self._run("tpm2_dictionarylockout", "--setup-parameters", f"--max-tries={tries}",
                  f"--recovery-time={recovery_s}", "--lockout-recovery-time=1")  # fmt: skip

    def forgive(self) -> None:
        """As after the recovery time of a TPM that has locked itself."""
        self._run("tpm2_dictionarylockout", "--clear-lockout")

    def close(self) -> None:
        while self._programs:
            _end(self._programs.pop())

    def _make(self) -> None:
        self._run(
            "swtpm_setup", "--tpm2", "--tpmstate", str(self._state), "--createek", "--decryption", "--lock-nvram",
            "--overwrite", *([] if self._makers is None else _certified_by(self._makers)),
        )  # fmt: skip
        self._power_on()
        # A power cut counts as a wrong try of the PIN (dictionary attack protection), and as it comes three of them
        # lock the TPM for a quarter of an hour: here power is cut every few seconds.
        self.lock_after(1000, recovery_s=1)
        self._run("tpm2_ptool", "init", "--path", str(self._store))
        # tpm2_ptool takes PINs as arguments only; these guard a simulated TPM and live as long as the test.
        self._run(
            "tpm2_ptool", "addtoken", "--path", str(self._store), "--pid=1", f"--label={self.label}",
            f"--sopin={self._so_pin}", f"--userpin={self.pin}",
        )  # fmt: skip

    def _power_on(self) -> None:
        port = _free_port_pair()
        self._start(
            "swtpm", "socket", "--tpm2", "--tpmstate", f"dir={self._state}",
            "--server", f"type=tcp,port={port},bindaddr=127.0.0.1",
            "--ctrl", f"type=tcp,port={port + 1},bindaddr=127.0.0.1",
            "--flags", "not-need-init,startup-clear",
        )  # fmt: skip
        _wait("swtpm", lambda: _listens(port + 1))
        self._start(
            "tpm2-abrmd", "--allow-root", "--session", f"--dbus-name={self._manager}",
            f"--tcti=swtpm:host=127.0.0.1,port={port}", "--flush-all",
        )  # fmt: skip
        _wait("the resource manager", self._has_manager)

    def _has_manager(self) -> bool:
        asked = subprocess.run(
            [
                "dbus-send", f"--bus={_bus()}", "--print-reply", "--dest=org.freedesktop.DBus", "/",
                "org.freedesktop.DBus.NameHasOwner", f"string:{self._manager}",
            ],
            capture_output=True,
            check=False,
        )  # fmt: skip
        return b"boolean true" in asked.stdout

    def _start(self, *arguments: str) -> None:
        log = (self._folder / f"{arguments[0]}.log").open("ab")
        with log:
            self._programs.append(start_tied(*arguments, output=log, environment={**os.environ, **self.environment}))

    def _run(self, *arguments: str) -> None:
        done = subprocess.run(
            arguments, env={**os.environ, **self.environment}, capture_output=True, check=False, timeout=120
        )
        if done.returncode != 0:
            said = (done.stdout + done.stderr).decode(errors="replace").strip()[-600:]
            raise RuntimeError(f"{' '.join(arguments[:2])} failed: {said}")


def maker_roots(makers: Path) -> bytes:
    """The root of a maker's authority, PEM."""
    return (makers / "swtpm-localca-rootca-cert.pem").read_bytes()


def maker_intermediate(makers: Path) -> bytes:
    """What is between it and the certificates of TPMs, PEM."""
    return (makers / "issuercert.pem").read_bytes()


def _certified_by(makers: Path) -> list[str]:
    """Options of swtpm_setup: endorsement certificates by swtpm's own authority, in this folder and nowhere else."""
    makers.mkdir(parents=True, exist_ok=True)
    authority, options, setup = (makers / f"{name}.conf" for name in ("authority", "options", "setup"))
    authority.write_text(
        f"statedir = {makers}\nsigningkey = {makers}/signkey.pem\nissuercert = {makers}/issuercert.pem\n"
        f"certserial = {makers}/certserial\n"
    )
    options.write_text("--platform-manufacturer Rig\n--platform-version 1\n--platform-model rig\n")
    setup.write_text(
        f"create_certs_tool = {shutil.which('swtpm_localca')}\ncreate_certs_tool_config = {authority}\n"
        f"create_certs_tool_options = {options}\n"
    )
    return ["--create-ek-cert", "--config", str(setup)]


@functools.cache
def _bus() -> str:
    """The address of this process's D-Bus; it ends with the process."""
    folder = Path(tempfile.mkdtemp(prefix="v2g-bus-"))
    socket_file = folder / "bus"
    address = f"unix:path={socket_file}"
    daemon = start_tied(
        "dbus-daemon", "--session", "--nofork", f"--address={address}",
        output=subprocess.DEVNULL, environment=os.environ,
    )  # fmt: skip

    def end() -> None:
        _end(daemon)
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(end)
    _wait("the private D-Bus", socket_file.exists)
    return address


def _free_port_pair() -> int:
    """A port that is free and whose successor is too: the TCTI finds the control port by adding one."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
            try:
                second.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _wait(what: str, condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + START_S
    while not condition():
        if time.monotonic() > deadline_s:
            raise RuntimeError(f"{what} did not come up within {START_S:g} s")
        time.sleep(0.05)


def _end(program: subprocess.Popen[bytes]) -> None:
    program.terminate()
    try:
        program.wait(5)
    except subprocess.TimeoutExpired:
        program.kill()
        program.wait()
