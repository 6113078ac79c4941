"""`v2g-gateway init` on a real SoftHSM: makes what is missing, once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from agent.config import read_settings
from agent.identity.did import did_of
from hil_tests.rig.token import softhsm_module
from hil_tests.test_cli_commands import command

pytestmark = pytest.mark.skipif(softhsm_module() is None, reason="SoftHSM is not installed (package softhsm2)")


def init(folder: Path, *more: str) -> dict[str, object]:
    done = command(
        "init",
        "--state-dir",
        folder / "state",
        "--config-out",
        folder / "etc" / "gateway.toml",
        "--module",
        softhsm_module() or "",
        "--json",
        *more,
        env={"SOFTHSM2_CONF": ""},
    )
    assert done.returncode == 0, done.stderr + done.stdout
    answer = json.loads(done.stdout)
    assert isinstance(answer, dict)
    return answer


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def public_der(file: Path) -> bytes:
    return load_pem_public_key(file.read_bytes()).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def test_a_second_run_makes_nothing_and_is_the_same_gateway(tmp_path: Path) -> None:
    first = init(tmp_path, "--name", "roof", "--settled", "pv-1")
    config = tmp_path / "etc" / "gateway.toml"
    assert first["made"] == [
        "token v2g-gateway",
        f"configuration {config}",
        "key evidence",
        "key uplink-tls",
        "key device:pv-1",
    ]
    enrolment = Path(str(first["enrolment_dir"]))
    assert did_of(public_der(enrolment / "evidence.pem")) == first["gateway_id"]
    request = x509.load_pem_x509_csr((enrolment / "uplink.csr").read_bytes())
    assert request.is_signature_valid
    names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [first["gateway_id"]]

    pin_file = tmp_path / "state" / "token-pin"
    assert pin_file.stat().st_mode & 0o777 == 0o600
    settings = read_settings(config)
    assert (settings.gateway.name, settings.token.label) == ("roof", "v2g-gateway")
    assert settings.token.pin_secret == f"file:{pin_file}"

    before = contents(tmp_path)
    second = init(tmp_path, "--name", "another", "--settled", "pv-1")
    assert (second["made"], second["gateway_id"]) == ([], first["gateway_id"])
    after = contents(tmp_path)
    # The request is signed anew each time, and SoftHSM notes logins; everything else is as it was.
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    assert {Path(name).name for name in changed} <= {"uplink.csr", "token.object"}


def test_a_device_that_is_settled_later_gets_its_key_from_the_configuration(tmp_path: Path) -> None:
    first = init(tmp_path)
    config = tmp_path / "etc" / "gateway.toml"
    with config.open("a") as file:
        file.write(
            '\n[[device]]\nid = "pv-1"\nkind = "pv"\ndriver = "sunspec"\naddress = "tcp://inverter"\nsettled = true\n'
        )
    second = init(tmp_path)
    assert (second["made"], second["gateway_id"]) == (["key device:pv-1"], first["gateway_id"])
    public_der(Path(str(second["enrolment_dir"])) / "device-pv-1.pem")


def test_a_wrong_pin_is_said_and_makes_nothing(tmp_path: Path) -> None:
    init(tmp_path)
    pin_file = tmp_path / "state" / "token-pin"
    pin = pin_file.read_text()
    pin_file.write_text("00000000")
    before = contents(tmp_path / "state" / "token")
    done = command(
        "init",
        "--state-dir",
        tmp_path / "state",
        "--config-out",
        tmp_path / "etc" / "gateway.toml",
        "--json",
        env={"SOFTHSM2_CONF": ""},
    )
    assert (done.returncode, json.loads(done.stdout)["ok"]) == (1, False)
    assert "PIN" in json.loads(done.stdout)["error"]
    assert pin not in done.stdout + done.stderr
    assert contents(tmp_path / "state" / "token").keys() == before.keys()


def test_a_place_that_cannot_be_written_is_said_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = command("init", "--state-dir", tmp_path / "file" / "state", "--config-out", tmp_path / "gateway.toml")
    assert done.returncode == 1
    assert "error:" in done.stderr
    assert "Traceback" not in done.stderr
