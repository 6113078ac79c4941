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
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
LINKED_PRIMARY: Final = "0x81000099"
"""A persistent handle for what is not made by tpm2_ptool."""
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

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """It is there and answers nothing."""
        [tpm] = [program for program in self._programs if isinstance(program.args, tuple) and "swtpm" in program.args]
        tpm.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            tpm.send_signal(signal.SIGCONT)

    def lock_after(self, tries: int, recovery_s: int) -> None:
        """Lock itself after so many wrong tries of a PIN, of which one is forgiven after each `recovery_s`."""
        self.tool("tpm2_dictionarylockout", "--setup-parameters", f"--max-tries={tries}",
                  f"--recovery-time={recovery_s}", "--lockout-recovery-time=1")  # fmt: skip

    def forgive(self) -> None:
        """As after the recovery time of a TPM that has locked itself."""
        self.tool("tpm2_dictionarylockout", "--clear-lockout")

    def wrong_tries(self) -> int:
        """How many wrong PINs it counts, of those that it has not forgiven yet."""
        said = self.tool("tpm2_getcap", "properties-variable")
        return int(next(line for line in said.splitlines() if "TPM2_PT_LOCKOUT_COUNTER" in line).split(":")[1], 16)

    def add_token(self, label: str, pin: str, *, primary: int = 1) -> None:
        """Another token in this TPM, under the primary key of this number. Raises RuntimeError when it takes none."""
        # tpm2_ptool takes PINs as arguments only; these guard a simulated TPM and live as long as the test.
        self.tool("tpm2_ptool", "addtoken", "--path", str(self._store), f"--pid={primary}", f"--label={label}",
                  f"--sopin={self._so_pin}", f"--userpin={pin}")  # fmt: skip

    def import_key(self, file: Path, key_id: bytes) -> None:
        """A private key (PEM) from outside, into the first token."""
        self.tool("tpm2_ptool", "import", "--path", str(self._store), f"--label={self.label}",
                  f"--key-label={key_id.decode()}", f"--id={key_id.decode()}", f"--userpin={self.pin}",
                  f"--privkey={file.resolve()}", "--algorithm=ecc")  # fmt: skip

    def link_keys(self, label: str, pin: str, **keys: str) -> None:
        """A token of keys that the TPM's own tools have made under a primary key of theirs: id to name of its files.

        Each is NAME.pub and NAME.priv in the TPM's folder, with the authorisation "pw".
        """
        self.tool("tpm2_ptool", "init", "--path", str(self._store), f"--primary-handle={LINKED_PRIMARY}")
        self.add_token(label, pin, primary=2)
        for key_id, name in keys.items():
            self.tool("tpm2_ptool", "link", "--path", str(self._store), f"--label={label}", f"--key-label={key_id}",
                      f"--id={key_id}", f"--userpin={pin}", "--auth=pw", f"{name}.pub", f"{name}.priv")  # fmt: skip

    def close(self) -> None:
        while self._programs:
            _end(self._programs.pop())

    def _make(self) -> None:
        self.tool(
            "swtpm_setup", "--tpm2", "--tpmstate", str(self._state), "--createek", "--decryption", "--lock-nvram",
            "--overwrite", *([] if self._makers is None else _certified_by(self._makers)),
        )  # fmt: skip
        self._power_on()
        # A power cut counts as a wrong try of the PIN (dictionary attack protection), and as it comes three of them
        # lock the TPM for a quarter of an hour: here power is cut every few seconds.
        self.lock_after(1000, recovery_s=1)
        self.tool("tpm2_ptool", "init", "--path", str(self._store))
        self.add_token(self.label, self.pin)

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

    def tool(self, *arguments: str) -> str:
        """What one of the TPM's tools says. Raises RuntimeError with its words when it refuses."""
        done = subprocess.run(
            arguments, cwd=self._folder, env={**os.environ, **self.environment}, capture_output=True, check=False,
            timeout=120,
        )  # fmt: skip
        if done.returncode != 0:
            said = (done.stdout + done.stderr).decode(errors="replace").strip()[-600:]
            raise RuntimeError(f"{' '.join(arguments[:2])} failed: {said}")
        return done.stdout.decode(errors="replace")


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
