"""`v2g-gateway enroll --secret-file`: the first certificate over EST, a key in SoftHSM, a CA behind real TLS."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cryptography import x509
from typer.testing import CliRunner

from agent.cli.commands import app
from agent.identity.enrolment import root_code
from hil_tests.rig.est import Authority, EstService
from hil_tests.rig.token import softhsm_module
from hil_tests.test_cli_enroll import Site

pytestmark = pytest.mark.skipif(softhsm_module() is None, reason="SoftHSM is not installed (package softhsm2)")


class Enrolment:
    """A gateway after `init`, and the platform's CA, whose issuing certificate is not its root."""

    def __init__(self, site: Site, service: EstService, root: Authority) -> None:
        self.site, self.service, self.root = site, service, root
        self.code = root_code(root.certificate)
        self.secret_file = site.folder / "secret"
        self.secret_file.touch(mode=0o600)
        self.secret_file.write_text("once-only\n")
        service.secrets.add("once-only")
        text = site.config.read_text().replace("[platform]\n", f'[platform]\nest = "{service.url}"\n')
        site.config.write_text(text)

    async def run(self, *arguments: str | Path, code: int = 0) -> Any:
        """In a thread of its own: the CA answers in this one."""
        words = ["enroll", *map(str, arguments), "--config", str(self.site.config), "--json"]
        done = await asyncio.to_thread(CliRunner().invoke, app, words, catch_exceptions=False)
        assert done.exit_code == code, done.output
        return json.loads(done.stdout)

    @property
    def installed(self) -> list[str]:
        return sorted(path.name for path in self.site.installed.iterdir())


@pytest.fixture
async def enrolment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Enrolment]:
    monkeypatch.delenv("SOFTHSM2_CONF", raising=False)
    root = Authority.make("platform root")
    ca = Authority.make("platform CA", root)
    service = EstService(ca, root=root.certificate)
    site = await asyncio.to_thread(Site, tmp_path)
    async with service.running(ca.server_context(tmp_path)):
        yield Enrolment(site, service, root)


async def test_a_secret_and_the_roots_code_bring_root_and_certificate(enrolment: Enrolment) -> None:
    done = await enrolment.run("--root", enrolment.code, "--secret-file", enrolment.secret_file)
    assert sorted(done["installed"]) == ["platform root", "uplink certificate"]
    held = x509.load_pem_x509_certificates((enrolment.site.installed / "uplink.pem").read_bytes())
    assert held == [*enrolment.service.given, enrolment.service.authority.certificate]
    root = x509.load_pem_x509_certificates((enrolment.site.installed / "ca.pem").read_bytes())
    assert root == [enrolment.root.certificate]
    assert [operation for operation, _ in enrolment.service.asked] == ["simpleenroll"]

    again = await enrolment.run("--secret-file", enrolment.secret_file, code=1)
    assert "this secret is none, or was used" in again["error"]


async def test_another_root_than_the_one_that_was_told_of_gets_no_secret(enrolment: Enrolment) -> None:
    other = root_code(Authority.make("platform root").certificate)
    done = await enrolment.run("--root", other, "--secret-file", enrolment.secret_file, code=1)
    assert "is a root with the fingerprint" in done["error"]
    assert (enrolment.service.asked, enrolment.service.secrets) == ([], {"once-only"})
    assert enrolment.installed == []


async def test_who_is_between_shows_the_right_root_and_gets_no_secret(enrolment: Enrolment, tmp_path: Path) -> None:
    """/cacerts can be passed on by anybody; what follows is under TLS that only the platform's CA can certify."""
    heard: list[str] = []
    thief = EstService(Authority.make("thief"), root=enrolment.root.certificate)

    async def note(request: web.Request) -> web.StreamResponse:
        heard.append(request.headers.get("Authorization", ""))
        return thief.certificates(enrolment.root.certificate)

    thief.before = [note, note]
    async with thief.running(thief.authority.server_context(tmp_path)):
        text = enrolment.site.config.read_text().replace(enrolment.service.url, thief.url)
        enrolment.site.config.write_text(text)
        done = await enrolment.run("--root", enrolment.code, "--secret-file", enrolment.secret_file, code=1)
    assert "is not of the platform's CA" in done["error"]
    assert heard == [""]
    assert enrolment.installed == []


async def test_a_ca_that_decides_later_gets_the_same_request_again(enrolment: Enrolment) -> None:
    heard: list[bytes] = []

    async def later(request: web.Request) -> web.StreamResponse:
        heard.append(await request.read())
        return web.Response(status=202, headers={"Retry-After": "30"}, text="an officer looks at it")

    words = ("--root", enrolment.code, "--secret-file", enrolment.secret_file)
    for _ in range(2):
        enrolment.service.before = [lambda request: enrolment.service.answered(request), later]
        done = await enrolment.run(*words, code=1)
        assert "give this command again in 30 s or later, and says: an officer looks at it" in done["error"]
        assert enrolment.installed == []
    assert heard[0] == heard[1]
    await enrolment.run(*words)
    assert enrolment.installed == ["ca.pem", "uplink.pem"]


@pytest.mark.parametrize("name", ["uplink.pem", "ca.pem"])
async def test_a_place_that_cannot_be_written_is_told_before_the_secret_is_spent(
    enrolment: Enrolment, name: str
) -> None:
    (enrolment.site.folder / "occupied").touch()
    place, other = enrolment.site.installed / name, enrolment.site.folder / "occupied" / name
    text = enrolment.site.config.read_text()
    assert str(place) in text
    enrolment.site.config.write_text(text.replace(str(place), str(other)))
    words = ("--root", enrolment.code, "--secret-file", enrolment.secret_file)
    answer = await enrolment.run(*words, code=1)
    assert f"{other}: cannot be written here" in answer["error"]
    assert enrolment.service.secrets == {"once-only"}
    assert enrolment.installed == []


async def test_what_is_missing_or_too_much_is_told(enrolment: Enrolment) -> None:
    secret = enrolment.secret_file
    cases: tuple[tuple[list[str | Path], str], ...] = (
        (["--secret-file", secret], "the platform's root is not here yet"),
        (["--root", enrolment.code, "--secret-file", secret, "--certificate", secret], "give one"),
        (["--root", enrolment.code, "--secret-file", enrolment.site.folder / "nowhere"], "nowhere"),
    )
    for arguments, said in cases:
        answer = await enrolment.run(*arguments, code=1)
        assert said in answer["error"]
    secret.chmod(0o644)
    answer = await enrolment.run("--root", enrolment.code, "--secret-file", secret, code=1)
    assert "others may read this secret" in answer["error"]
    enrolment.site.config.write_text(enrolment.site.config.read_text().replace("est = ", "#est = "))
    answer = await enrolment.run("--root", enrolment.code, "--secret-file", secret, code=1)
    assert "set `est` of [platform] first" in answer["error"]
    assert (enrolment.installed, enrolment.service.asked) == ([], [])
