"""What an installer is told about a configuration: file, line, key and what would be right."""

from __future__ import annotations

import os
import pwd
import tempfile
from pathlib import Path

import pytest

from agent.config import ConfigError, SecretError, is_loopback, read_secret, read_settings

TOKEN = '[token]\nlabel = "demo"\n'
METER = '[[device]]\nid = "grid"\nkind = "meter"\ndriver = "sunspec"\naddress = "tcp://127.0.0.1:1502"\n'
PV = '[[device]]\nid = "pv-1"\nkind = "pv"\ndriver = "sunspec"\naddress = "tcp://127.0.0.1:1503"\nparent = "grid"\n'

PLATFORM = (
    '[platform]\nendpoints = ["h:1"]\nca_file = "/ca"\ncertificate_file = "/c"\nplatform_key_file = "/k"\n'
    'trust_root_file = "/r"\ntrust_list_file = "/l"\n'
)


def refusal(tmp_path: Path, text: str) -> str:
    path = tmp_path / "gateway.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_settings(path)
    return str(caught.value).replace(str(path), "gateway.toml")


def test_a_small_file_is_enough_and_defaults_are_safe(tmp_path: Path) -> None:
    path = tmp_path / "gateway.toml"
    path.write_text(TOKEN + METER + PV)
    settings = read_settings(path)
    assert settings.web.listen == "127.0.0.1:8080"
    assert settings.control.unsigned_commands == "restrictive"
    assert not settings.site.discharge_permitted
    assert [d.id for d in settings.device] == ["grid", "pv-1"]


def test_an_unknown_key_is_named_with_its_line_and_the_known_ones(tmp_path: Path) -> None:
    message = refusal(tmp_path, TOKEN + "labell = 1\n")
    assert message.startswith("gateway.toml:3: token.labell: unknown key; known here: ")
    assert "label" in message


def test_every_fault_has_its_own_line(tmp_path: Path) -> None:
    lines = refusal(tmp_path, TOKEN + "[site]\nfuse_a = 1\nphases = 2\n").splitlines()
    assert lines[0].startswith("gateway.toml:4: site.fuse_a: ")
    assert lines[1].startswith("gateway.toml:5: site.phases: ")


def test_the_second_device_is_named_by_its_own_line(tmp_path: Path) -> None:
    message = refusal(tmp_path, TOKEN + METER + PV + "unit = 999\n")
    assert message.startswith("gateway.toml:14: device.2.unit: ")
    assert "999" in message


def test_a_secret_in_the_file_is_refused_and_not_repeated(tmp_path: Path) -> None:
    message = refusal(tmp_path, TOKEN + 'pin_secret = "123456"\n')
    assert "file:/absolute/path" in message
    assert "123456" not in message


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "token: is missing"),
        ("[token]\n", "exactly one of `serial` and `label`"),
        (TOKEN + METER + METER, "device ids must differ"),
        (TOKEN + PV, "parent grid is no device"),
        (TOKEN + METER + PV.replace("grid", "pv-1"), "circle"),
        (TOKEN + METER + "settled = true\n" + PV + "settled = true\n", "settled twice"),
        (TOKEN + METER + PV.replace("1503", "1502"), "the same one"),
        (TOKEN + PV.replace("address", "# address"), "needs `address`"),
        (TOKEN + '[[device]]\nid = "c"\nkind = "charger"\ndriver = "ocpp"\n', "needs `charger_id`"),
        (TOKEN + "[settlement]\nwindow_s = 700\n", "does not divide a day"),
        (
            TOKEN + '[ocpp]\nlisten = "0.0.0.0:9000"\n'
            '[[device]]\nid = "c"\nkind = "charger"\ndriver = "ocpp"\ncharger_id = "C"\n',
            "pretend to be this charger",
        ),
        (TOKEN + "x = [", "is not TOML"),
    ],
)
def test_contradictions_are_explained(tmp_path: Path, text: str, says: str) -> None:
    assert says in refusal(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "begins"),
    [
        (TOKEN + METER + METER, "9: device.2.id: device ids must differ"),
        (TOKEN + METER + PV.replace("grid", "nope"), "13: device.2.parent: device pv-1: parent nope"),
        (TOKEN + METER + PV.replace("1503", "1502"), "12: device.2.address: devices grid and pv-1"),
        (TOKEN + "[settlement]\nwindow_s = 700\n", "4: settlement.window_s: 700 does not divide"),
        (TOKEN + '[web]\nlisten = "0.0.0.0:80"\n', "4: web.listen: 0.0.0.0:80 can be reached"),
        (TOKEN + "x = = 1\n", "3: is not TOML"),
        (TOKEN + "x = [", "3: is not TOML"),
    ],
)
def test_what_contradicts_something_else_is_told_with_its_line_and_key(tmp_path: Path, text: str, begins: str) -> None:
    assert refusal(tmp_path, text).startswith(f"gateway.toml:{begins}")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (TOKEN + '[web]\nlisten = "127.0.0.1:65536"\n', "the port at most 65535"),
        (TOKEN + '[ocpp]\nlisten = "9000"\n', 'write "host:port"'),
        ('[gateway]\nstate_dir = "here"\n' + TOKEN, "write the whole path"),
        (TOKEN + METER.replace(":1502", ":99999"), "from 1 to 65535"),
        (TOKEN + METER.replace("tcp://127.0.0.1:1502", "modbus://127.0.0.1"), 'write "tcp://'),
        (TOKEN + METER.replace("tcp://127.0.0.1:1502", "rtu://ttyUSB0"), "three slashes"),
        (TOKEN + METER.replace("tcp://127.0.0.1:1502", "rtu:///dev/ttyUSB0?parity=X"), "parity must be one of N, E, O"),
        (TOKEN + METER.replace("tcp://127.0.0.1:1502", "tcp://:502"), "device.1.address"),
        (
            TOKEN + '[web]\nlisten = "127.0.0.1:9000"\n'
            '[[device]]\nid = "c"\nkind = "charger"\ndriver = "ocpp"\ncharger_id = "C"\n',
            "a port of their own",
        ),
        (TOKEN + METER.replace("[[device]]", '[[device]]\nmeter_key_file = "/k"'), "only a charger's meter signs"),
        (
            TOKEN + '[[device]]\nid = "c"\nkind = "charger"\ndriver = "ocpp"\ncharger_id = "C"\n'
            f'meter_key_sha256 = "{"0" * 64}"\n',
            "which is missing",
        ),
    ],
)
def test_what_the_gateway_could_not_use_is_refused_before_it_starts(tmp_path: Path, text: str, says: str) -> None:
    assert says in refusal(tmp_path, text)


def test_a_file_that_is_no_text_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "gateway.toml"
    path.write_bytes(TOKEN.encode() + b"name = '\xff'\n")
    with pytest.raises(ConfigError, match=r"gateway\.toml:3: is not UTF-8"):
        read_settings(path)


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="v2g-gateway init"):
        read_settings(tmp_path / "absent.toml")


@pytest.mark.parametrize(
    ("listen", "loopback"),
    [("127.0.0.1:1", True), ("[::1]:1", True), ("localhost:1", True), ("0.0.0.0:1", False), ("gateway.lan:1", False)],
)
def test_only_loopback_is_loopback(listen: str, loopback: bool) -> None:
    assert is_loopback(listen) is loopback


def test_a_secret_that_others_can_read_is_refused(tmp_path: Path) -> None:
    secret = tmp_path / "pin"
    secret.write_text("987654\n")
    secret.chmod(0o644)
    with pytest.raises(SecretError, match="chmod 600") as caught:
        read_secret(f"file:{secret}")
    assert "987654" not in str(caught.value)
    secret.chmod(0o600)
    assert read_secret(f"file:{secret}") == "987654"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("folder_mode", [0o700, 0o755])
def test_a_secret_of_another_user_is_told_with_who_reads_it(folder_mode: int) -> None:
    """`sudo v2g-gateway enroll --secret-file` reads it as the service's user, and not as root."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        secret = folder / "secret"
        secret.write_text("987654\n")
        secret.chmod(0o600)
        folder.chmod(folder_mode)
        nobody = pwd.getpwnam("nobody")
        os.seteuid(nobody.pw_uid)
        try:
            with pytest.raises(SecretError, match="the user nobody may not read it; run chown nobody"):
                read_secret(f"file:{secret}")
        finally:
            os.seteuid(0)


def test_a_systemd_credential_is_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    with pytest.raises(SecretError, match="LoadCredential"):
        read_secret("credential:token-pin")
    (tmp_path / "token-pin").write_text("4711")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert read_secret("credential:token-pin") == "4711"


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ('address = "tls://192.0.2.9"', "needs `ca_file`"),
        ('address = "tcp://192.0.2.9"\nca_file = "/etc/ca.pem"', "are for a device at a tls:// address"),
        ('address = "tls://h"\nca_file = "/ca.pem"\ncertificate_file = "/c.pem"', "go together"),
    ],
)
def test_tls_to_a_device_is_complete_or_not_asked_for(tmp_path: Path, lines: str, says: str) -> None:
    device = f'[[device]]\nid = "grid"\nkind = "meter"\ndriver = "sunspec"\n{lines}\n'
    assert says in refusal(tmp_path, TOKEN + device)


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ('driver = "modbus"', '`map` and driver "modbus" go together'),
        ('driver = "sunspec"\nmap = "eastron-sdm630"', '`map` and driver "modbus" go together'),
        ('driver = "modbus"\nmap = "eastron-sdm630"\nkind = "pv"', "needs rated_export_w"),
        ('driver = "modbus"\nmap = "m.toml"\nkind = "battery"', "needs rated_import_w and rated_export_w"),
        ('driver = "modbus"\nmap = "m.toml"\nkind = "charger"', "a charger has driver ocpp"),
    ],
)
def test_a_mapped_device_names_its_map_and_its_nameplate(tmp_path: Path, lines: str, says: str) -> None:
    kind = "" if "kind" in lines else 'kind = "meter"\n'
    device = f'[[device]]\nid = "m"\naddress = "tcp://192.0.2.9"\n{kind}{lines}\n'
    assert says in refusal(tmp_path, TOKEN + device)


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ('certificate_names = ["gw"]', "site_ca = true"),
        ('site_ca = true\ncertificate_names = ["gw"]\ncertificate_file = "/c"\ncertificate_key_file = "/k"', "already"),
        ('site_ca = true\ncertificate_names = ["a b"]', "certificate_names"),
        ('ocsp_responders = ["http://ocsp.example/"]', "ocsp_responders"),
        ('ocsp_responders = ["user@ocsp.example"]', "ocsp_responders"),
        ('contract_provider = "http://contracts.example/"', "contract_provider"),
        ('contract_provider = "https://user@contracts.example/"', "contract_provider"),
        ('contract_provider_ca_file = "/ca.pem"', "contract_provider_secret need it"),
    ],
)
def test_names_of_the_listener_and_responders_are_names(tmp_path: Path, lines: str, says: str) -> None:
    assert says in refusal(tmp_path, f"{TOKEN}[ocpp]\n{lines}\n")


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ('est = "http://ca.example/.well-known/est"', "platform.est"),
        ('est = "https://user:secret@ca.example/.well-known/est"', "platform.est"),
        ('est = "https://ca.example/"', "platform.est"),
        ('est = "https://ca.example/.well-known/est/a/b"', "platform.est"),
        ('est = "https://ca.example/.well-known/est?x=1"', "platform.est"),
        ('est_ca_file = "/ca.pem"', "est_ca_file needs it"),
    ],
)
def test_an_est_server_is_named_up_to_its_label(tmp_path: Path, lines: str, says: str) -> None:
    assert says in refusal(tmp_path, f"{TOKEN}{PLATFORM}{lines}\n")


@pytest.mark.parametrize("path", ["/.well-known/est", "/.well-known/est/", "/.well-known/est/site-7"])
def test_an_est_server_may_have_a_label(tmp_path: Path, path: str) -> None:
    config = f'{TOKEN}{PLATFORM}est = "https://ca.example:8443{path}"\n'
    (tmp_path / "gateway.toml").write_text(config)
    platform = read_settings(tmp_path / "gateway.toml").platform
    assert platform is not None
    assert platform.est == f"https://ca.example:8443{path}"


def test_security_profile_3_takes_a_certificate_of_the_sites_ca(tmp_path: Path) -> None:
    charger = '[[device]]\nid = "c"\nkind = "charger"\ndriver = "ocpp"\ncharger_id = "CP"\nsecurity_profile = 3\n'
    assert "certificate_names" in refusal(tmp_path, TOKEN + charger)
    path = tmp_path / "gateway.toml"
    path.write_text(f'{TOKEN}[ocpp]\nsite_ca = true\ncertificate_names = ["192.0.2.1", "gw.example"]\n{charger}')
    assert read_settings(path).ocpp.has_tls
