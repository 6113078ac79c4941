"""What a command writes for the running agent is the agent's to read, whoever gave the command."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from agent.cli.init import put


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files to other users, which only root may")
def test_a_file_that_root_makes_for_the_agent_belongs_to_the_owner_of_its_folder(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    os.chown(state, 65534, 65533)
    put(tmp_path / "file", b"secret", mode=0o600, for_owner_of=state)
    made = (tmp_path / "file").stat()
    assert (made.st_uid, made.st_gid, stat.S_IMODE(made.st_mode)) == (65534, 65533, 0o600)


def test_a_state_folder_that_is_not_there_yet_stops_nobody(tmp_path: Path) -> None:
    put(tmp_path / "file", b"secret", mode=0o600, for_owner_of=tmp_path / "nowhere")
    assert (tmp_path / "file").read_bytes() == b"secret"
