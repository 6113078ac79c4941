"""install.sh, .ci/run and the unit: what can be tested in seconds and without a change to this machine.

The whole installation is proven on a fresh system; here its functions run alone, in folders of the test.
"""

from __future__ import annotations

import configparser
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from hil_tests.rig.token import softhsm_module

ROOT: Final = Path(__file__).parent.parent
SCRIPT: Final = ROOT / "install.sh"
UNIT: Final = ROOT / "systemd" / "v2g-gateway.service"
SOURCES: Final = ("agent", "drivers", "firmware_attest", "hil_tests", "proto")
NOBODY: Final = 65534
HIGHEST_EXPOSURE: Final = 25
"""Tenths, of systemd-analyze's 0.0 (locked in) to 10.0 (no sandbox); 2.5 leaves room for other versions' counting."""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to other users, which only root may")
needs_analyze = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


def run(*arguments: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        arguments,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, **more},
        stdin=subprocess.DEVNULL,
    )


def call(script: Path, code: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run shell code that knows the script's functions."""
    given = 'set -- ; . "$SCRIPT"; python=$PYTHON; scratch=$(mktemp -d); trap \'rm -rf "$scratch"\' EXIT; changed=0\n'
    return run("bash", "-c", given + code, SCRIPT=str(script), PYTHON=sys.executable, **more)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A small checkout with a copy of install.sh; gives the copy."""
    for name in SOURCES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f'"""{name}"""\n')
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "v2g-gateway"\nversion = "1.2.3"\n')
    for name in ("README.md", "LICENSE", "requirements.lock", "requirements-dev.lock"):
        (tmp_path / name).write_text(name)
    return Path(shutil.copy(SCRIPT, tmp_path))


@pytest.fixture
def readable() -> Iterator[Path]:
    """A copy of install.sh that everybody can read: pytest's own folders are closed to other users."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield Path(shutil.copy(SCRIPT, folder))
    shutil.rmtree(folder)


# -- Use --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", ["install.sh", ".ci/run"])
def test_the_scripts_are_right_for_bash_and_executable(script: str) -> None:
    assert run("bash", "-n", ROOT / script).stderr == ""
    assert os.access(ROOT / script, os.X_OK)


def test_help_names_every_command() -> None:
    helped = run(SCRIPT, "--help")
    assert helped.returncode == 0
    for command in ("install", "upgrade", "uninstall [--purge]", "demo [--seconds N] [--json]", "test"):
        assert command in helped.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nonsense"], "there is no command nonsense"),
        (["install", "now"], "install takes no arguments: now"),
        (["upgrade", "--force"], "upgrade takes no arguments: --force"),
        (["uninstall", "--purg"], "uninstall takes --purge or nothing: --purg"),
    ],
)
def test_wrong_use_is_refused_with_usage_and_exit_code_2(arguments: list[str], says: str) -> None:
    refused = run(SCRIPT, *arguments)
    assert refused.returncode == 2
    assert refused.stdout == ""
    assert says in refused.stderr
    assert "usage: ./install.sh" in refused.stderr


@pytest.mark.parametrize("command", ["install", "upgrade", "uninstall"])
def test_what_changes_the_system_is_refused_to_everybody_but_root(readable: Path, command: str) -> None:
    as_other = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"] if os.geteuid() == 0 else []
    refused = run(*as_other, readable, command)
    assert refused.returncode == 1
    assert "needs root: sudo ./install.sh" in refused.stderr


# -- The name of a version --------------------------------------------------------------------------------------------


def version_name(script: Path) -> str:
    named = call(script, "version_name")
    assert named.returncode == 0, named.stderr
    return named.stdout


def test_the_same_source_has_the_same_version_name_after_it_has_run(checkout: Path) -> None:
    before = version_name(checkout)
    cache = checkout.parent / "agent" / "__pycache__"
    cache.mkdir()
    (cache / "gateway.cpython-311.pyc").write_bytes(b"compiled")
    assert version_name(checkout) == before
    assert before.startswith("1.2.3-")


@pytest.mark.parametrize("changed", [*(f"{name}/__init__.py" for name in SOURCES), "requirements.lock"])
def test_any_change_of_source_or_locked_packages_has_another_version_name(checkout: Path, changed: str) -> None:
    before = version_name(checkout)
    with (checkout.parent / changed).open("a") as file:
        file.write("# changed\n")
    assert version_name(checkout) != before


# -- Steps ------------------------------------------------------------------------------------------------------------


def test_a_failed_step_shows_its_last_words_says_what_failed_and_keeps_the_rest(tmp_path: Path) -> None:
    step = 'quietly "the step failed" sh -c "seq 100; echo no such luck >&2; exit 3"; echo went on'
    failed = call(SCRIPT, step, TMPDIR=str(tmp_path))
    assert failed.returncode == 1
    assert failed.stdout == ""
    assert "no such luck\ninstall.sh: the step failed; the lines above say why" in failed.stderr
    (log,) = tmp_path.glob("*.log")
    assert str(log) in failed.stderr
    assert log.read_text().startswith("1\n2\n")


def test_a_good_step_says_nothing(tmp_path: Path) -> None:
    done = call(SCRIPT, 'quietly "the step failed" seq 100', TMPDIR=str(tmp_path))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not list(tmp_path.iterdir())


@needs_root
def test_putting_the_same_file_again_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "file"
    put = f"put {file} 0640 root <<<words; echo $changed"
    assert call(SCRIPT, put).stdout == "1\n"
    before = file.stat()
    assert before.st_mode & 0o777 == 0o640
    assert call(SCRIPT, put).stdout == "0\n"
    after = file.stat()
    # Not the whole of it: to be read and compared moves the time of the last access.
    assert (after.st_ino, after.st_mtime_ns, after.st_mode) == (before.st_ino, before.st_mtime_ns, before.st_mode)
    assert call(SCRIPT, put.replace("words", "other")).stdout == "1\n"
    assert file.read_text() == "other\n"


def test_a_link_is_switched_and_the_same_link_left_alone(tmp_path: Path) -> None:
    switch = f"link one {tmp_path}/current; link one {tmp_path}/current; echo $changed"
    assert call(SCRIPT, switch).stdout == "1\n"
    inode = (tmp_path / "current").lstat().st_ino
    assert call(SCRIPT, switch).stdout == "0\n"
    assert (tmp_path / "current").lstat().st_ino == inode
    assert call(SCRIPT, switch.replace("one", "two")).stdout == "1\n"
    assert (tmp_path / "current").readlink() == Path("two")


@pytest.mark.parametrize("failing", ["ruff", "mypy", "lint-imports", "python"])
def test_the_test_command_fails_with_the_first_check_that_fails(checkout: Path, failing: str) -> None:
    programs = checkout.parent / ".venv" / "bin"
    programs.mkdir(parents=True)
    called = checkout.parent / "called"
    order = ["ruff", "mypy", "lint-imports", "python"]
    for name in order:
        (programs / name).write_text(f"#!/bin/sh\necho {name} >>{called}\nexit {3 if name == failing else 0}\n")
        (programs / name).chmod(0o755)
    tested = call(checkout, "need() { :; }; make_venv() { :; }; run_tests")
    assert tested.returncode != 0
    assert called.read_text().splitlines()[-1] == failing
    assert not set(called.read_text().split()) & set(order[order.index(failing) + 1 :])


# -- What the service's user may not make root do ---------------------------------------------------------------------


SOMEBODY: Final = "daemon"
"""A user with a group of the same name, which Debian has from the start; stands in for the service's."""


@pytest.fixture
def theirs() -> Iterator[Path]:
    """A folder that everybody may enter, with `state`, which belongs to the service's user."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    (folder / "state").mkdir(mode=0o700)
    shutil.chown(folder / "state", SOMEBODY, SOMEBODY)
    yield folder
    shutil.rmtree(folder)


def installing(folder: Path, step: str) -> subprocess.CompletedProcess[str]:
    """Run a step of the installation with every folder inside `folder`. Nobody is put into another group by it."""
    given = f"prefix={folder}/opt; etc={folder}/etc; state={folder}/state; user={SOMEBODY}; getent() {{ return 1; }}\n"
    return call(SCRIPT, f"{given}umask 022; cd /; {step}")


@needs_root
def test_the_folders_are_made_and_are_the_services_alone(theirs: Path) -> None:
    made = installing(theirs, "make_user_and_folders")
    assert made.returncode == 0, made.stderr
    for folder in (theirs / "state", theirs / "state" / "token"):
        assert (folder.stat().st_uid, folder.stat().st_mode & 0o777) == (pwd.getpwnam(SOMEBODY).pw_uid, 0o700)
    assert installing(theirs, "make_user_and_folders").returncode == 0


@needs_root
def test_a_link_among_the_services_folders_gives_nothing_away(theirs: Path) -> None:
    """Who has taken over the service must not become the owner of a folder of root's at the next upgrade."""
    (theirs / "roots").mkdir(mode=0o755)
    (theirs / "state" / "token").symlink_to(theirs / "roots")
    installing(theirs, "make_user_and_folders")
    assert ((theirs / "roots").stat().st_uid, (theirs / "roots").stat().st_mode & 0o777) == (0, 0o755)


@needs_root
def test_a_link_in_the_place_of_the_new_configuration_shows_no_file_of_roots(theirs: Path) -> None:
    secret = theirs / "secret"
    secret.write_text("for root alone")
    secret.chmod(0o600)
    program = theirs / "venv" / "bin" / "v2g-gateway"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\nln -s {secret} {theirs}/state/gateway.toml.new\n")
    program.chmod(0o755)
    (theirs / "etc").mkdir()
    (theirs / "etc" / "token-pin").write_text("1234")
    (theirs / "state" / "token").mkdir()
    made = installing(theirs, f"make_identity {theirs}/venv")
    assert made.returncode != 0
    assert not (theirs / "etc" / "gateway.toml").exists()


# -- Token and configuration ------------------------------------------------------------------------------------------


@needs_root
@pytest.mark.skipif(softhsm_module() is None, reason="SoftHSM is not installed (package softhsm2)")
class TestIdentity:
    """make_identity with folders of the test, as the user that runs it."""

    @pytest.fixture
    def venv(self, tmp_path: Path) -> Path:
        """A stand-in for the installed version: the real command line, and a note of how it was called."""
        program = tmp_path / "venv" / "bin" / "v2g-gateway"
        program.parent.mkdir(parents=True)
        program.write_text(
            f'#!/bin/sh\n{{ printf "%s\\n" "$@"; env; }} >>{tmp_path}/calls\n'
            f'cd {ROOT} && exec {sys.executable} -m agent.cli.main "$@"\n'
        )
        program.chmod(0o755)
        for name in ("etc", "state/token"):
            (tmp_path / name).mkdir(parents=True, mode=0o700)
        (tmp_path / "etc" / "softhsm2.conf").write_text(f"directories.tokendir = {tmp_path}/state/token\n")
        return program.parent.parent

    def make(self, venv: Path) -> subprocess.CompletedProcess[str]:
        folder = venv.parent
        given = f'etc={folder}/etc; state={folder}/state; user=$(id -un); as_service_user() {{ "$@"; }}\n'
        return call(SCRIPT, given + f"make_identity {venv}; echo $changed")

    def test_token_keys_and_configuration_are_made_once(self, venv: Path) -> None:
        made = self.make(venv)
        assert (made.returncode, made.stdout) == (0, "1\n"), made.stderr
        config = venv.parent / "etc" / "gateway.toml"
        assert "Gateway did:key:z" in made.stderr
        assert f"configuration {config}" in made.stderr
        checked = run(
            sys.executable, "-m", "agent.cli.main", "config", "check", "--config", config, PYTHONPATH=str(ROOT)
        )
        assert checked.returncode == 0, checked.stderr
        request = venv.parent / "state" / "enrolment" / "uplink.csr"
        before = request.read_bytes(), request.stat(), config.stat()
        assert self.make(venv).stdout == "0\n"
        assert (request.read_bytes(), request.stat(), config.stat()) == before

    def test_the_pin_is_in_its_file_and_nowhere_else(self, venv: Path) -> None:
        made = self.make(venv)
        file = venv.parent / "etc" / "token-pin"
        pin = file.read_text()
        assert len(pin) == 24
        assert file.stat().st_mode & 0o777 == 0o600
        assert pin not in made.stderr + made.stdout
        assert pin not in (venv.parent / "calls").read_text()
        holders = [path for path in venv.parent.rglob("*") if path.is_file() and pin.encode() in path.read_bytes()]
        assert holders == [file]

    def test_a_lost_pin_is_said_and_not_replaced(self, venv: Path) -> None:
        self.make(venv)
        (venv.parent / "etc" / "token-pin").unlink()
        (venv.parent / "etc" / "gateway.toml").unlink()
        refused = self.make(venv)
        assert refused.returncode == 1
        assert "token-pin is missing" in refused.stderr
        assert not (venv.parent / "etc" / "token-pin").exists()


# -- The unit ---------------------------------------------------------------------------------------------------------


@needs_analyze
def test_systemd_understands_every_line_of_the_unit(tmp_path: Path) -> None:
    # The program is not installed here; all else of the unit stays as it is.
    text = UNIT.read_text().replace("/opt/v2g-gateway/current/bin/v2g-gateway", "/bin/true")
    (tmp_path / UNIT.name).write_text(text)
    verified = run("systemd-analyze", "verify", tmp_path / UNIT.name)
    about_us = [line for line in verified.stderr.splitlines() if UNIT.name in line]
    assert (verified.returncode, about_us) == (0, [])


@needs_analyze
def test_the_service_is_locked_in() -> None:
    rated = run("systemd-analyze", "security", "--offline=true", f"--threshold={HIGHEST_EXPOSURE}", "--no-pager", UNIT)
    assert rated.returncode == 0, rated.stdout[-300:] + rated.stderr


def test_unit_and_installation_name_the_same_places() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(UNIT)
    service = unit["Service"]
    places = call(SCRIPT, 'echo "$prefix $etc $state $user $unit"').stdout.split()
    prefix, etc, state, user, name = places
    assert name == UNIT.name
    assert service["User"] == service["Group"] == user
    assert service["ExecStart"] == f"{prefix}/current/bin/v2g-gateway run --config {etc}/gateway.toml"
    assert service["Environment"] == f"SOFTHSM2_CONF={etc}/softhsm2.conf"
    assert f"/var/lib/{service['StateDirectory']}" == state
