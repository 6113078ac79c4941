"""`v2g-gateway init`: the PIN and the configuration are made once, and nothing that is there is replaced."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.cli import init
from agent.config import SecretError, TokenSettings, read_settings

GIVEN = {"token": {"label": "v2g"}, "gateway": {"name": "roof"}}


def test_a_pin_is_made_once_at_random_and_for_its_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "secrets" / "pin"
    pin = init.read_pin(f"file:{file}")
    assert len(pin) == 16
    assert file.stat().st_mode & 0o777 == 0o600
    assert init.read_pin(f"file:{file}") == pin
    assert init.read_pin(f"file:{tmp_path / 'another'}") != pin


def test_a_pin_that_is_there_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "pin"
    file.touch(mode=0o600)
    file.write_text("123456\n")
    assert init.read_pin(f"file:{file}") == "123456"
    assert file.read_text() == "123456\n"


def test_a_pin_that_others_may_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "pin"
    file.write_text("123456")
    file.chmod(0o644)
    with pytest.raises(SecretError, match="chmod 600") as refused:
        init.read_pin(f"file:{file}")
    assert "123456" not in str(refused.value)


def test_a_credential_is_never_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    with pytest.raises(SecretError, match="systemd"):
        init.read_pin("credential:token-pin")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    with pytest.raises(SecretError):
        init.read_pin("credential:token-pin")
    assert list(tmp_path.iterdir()) == []


def test_a_configuration_is_written_once(tmp_path: Path) -> None:
    file = tmp_path / "etc" / "gateway.toml"
    assert init.write_config(file, GIVEN)
    assert read_settings(file).gateway.name == "roof"
    file.write_text("# mine\n")
    assert not init.write_config(file, GIVEN)
    assert file.read_text() == "# mine\n"


def test_softhsm_is_told_where_its_tokens_are_unless_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tokens = TokenSettings(module=Path("/usr/lib/softhsm/libsofthsm2.so"), label="v2g")
    monkeypatch.setenv("SOFTHSM2_CONF", "")
    conf = init.choose_softhsm(tokens, tmp_path)
    assert conf == tmp_path / "token" / "softhsm2.conf"
    monkeypatch.setenv("SOFTHSM2_CONF", "/elsewhere.conf")
    assert init.choose_softhsm(tokens, tmp_path) == Path("/elsewhere.conf")


def test_another_module_is_left_to_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SOFTHSM2_CONF", raising=False)
    assert init.choose_softhsm(TokenSettings(module=Path("/usr/lib/libtpm2_pkcs11.so"), label="v2g"), tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_what_is_given_to_the_platform_is_written_beside_and_never_through_a_link(tmp_path: Path) -> None:
    """Root may run init in a folder of the service's user."""
    roots = tmp_path / "roots"
    roots.write_text("before")
    folder = tmp_path / "enrolment"
    folder.mkdir()
    (folder / "evidence.pem").symlink_to(roots)
    (folder / "evidence.pem.new").symlink_to(roots)
    init._write_files(folder, {"evidence.pem": b"key"})
    assert roots.read_text() == "before"
    assert (folder / "evidence.pem").read_bytes() == b"key"
    assert [path.name for path in folder.iterdir()] == ["evidence.pem"]


def test_a_pin_file_is_never_there_without_its_pin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash between making and writing it would leave a PIN that is empty, for ever."""

    def fails(*_: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("secrets.token_hex", fails)
    with pytest.raises(KeyboardInterrupt):
        init.read_pin(f"file:{tmp_path / 'pin'}")
    assert not (tmp_path / "pin").exists()
