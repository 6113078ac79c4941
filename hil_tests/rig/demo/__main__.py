"""Runs the demo: `python -m hil_tests.rig.demo [--seconds N] [--json] [--keep FOLDER]`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import aiohttp
from rich.live import Live

from agent.evidence.errors import EvidenceError
from hil_tests.rig.demo import score, screen
from hil_tests.rig.demo.stage import Stage, StageError
from hil_tests.rig.demo.story import CURTAIL_W, CYCLE_SECONDS, DISCHARGE_W, Act, Story, tell

READY_S: Final = 45.0
SETTLED_S: Final = 20.0
"""After the story: for the last window to be signed by both sides, and the backlog to drain."""
FRAME_S: Final = 0.5


@dataclass(slots=True)
class Play:
    """The story as it happened."""

    stage: Stage
    story: Story
    act: str = "starting"
    commands_sent: int = 0
    cuts: list[tuple[float, float]] = field(default_factory=list)
    cut_since: float | None = None
    broken_off_s: float | None = None
    """Unix time at which a person ended the story before its end."""

    async def perform(self, act: Act) -> None:
        """Do what the story says."""
        self.act = act.value
        match act:
            case Act.DISCHARGE:
                await self._issue(
                    type="DISCHARGE", power_w=DISCHARGE_W, duration_s=self.story.discharge_s, point="device",
                    targets=["battery-1", "charger-1"],
                )  # fmt: skip
            case Act.CURTAIL:
                await self._issue(
                    type="CURTAIL", power_w=CURTAIL_W, start_in_s=self.story.curtail_in_s,
                    duration_s=self.story.curtail_s,
                )  # fmt: skip
            case Act.CUT:
                self.stage.link.cut()
                self.cut_since = time.time()
            case Act.RESTORE:
                self.restore()

    def restore(self) -> None:
        """Close a cut."""
        if self.cut_since is not None:
            self.stage.link.restore()
            self.cuts.append((self.cut_since, time.time()))
            self.cut_since = None

    async def _issue(self, **command: object) -> None:
        self.commands_sent += 1
        await self.stage.platform.order(do="issue", command={"id": f"command-{self.commands_sent}", **command})


async def run(seconds: float | None, folder: Path, *, setup_seconds: float | None, quiet: bool) -> dict[str, object]:
    """One run; its figures. Raises StageError or EvidenceError."""
    story = tell(seconds if seconds is not None else CYCLE_SECONDS)
    ended = asyncio.Event()
    # SIGHUP: who closes the terminal leaves no agent behind.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    stage = await Stage.prepare(folder, story)
    play = Play(stage, story)
    try:
        await stage.start_all()
        async with aiohttp.ClientSession() as session, _shown(play, session, seconds, quiet=quiet):
            await _until_ready(stage, session)
            cycles = 0
            while not ended.is_set() and not (cycles and seconds is not None):
                await _perform_all(play, ended)
                cycles += 1
            if ended.is_set():
                play.broken_off_s = time.time()
            play.restore()
            play.act = "the backlog drains, and the last window is signed by both sides"
            await _until_settled(stage, session, broken_off=ended.is_set())
            play.act = "stopping"
        exit_code = await stage.gateway.end()
    finally:
        await stage.close()
    evidence = score.read_evidence(await stage.export(), stage.gateway_id)
    books = json.loads(stage.books_file.read_text(encoding="utf-8"))
    judged = score.Run(
        gateway_id=stage.gateway_id,
        commands_sent=play.commands_sent,
        cuts=tuple(play.cuts),
        ramp_s=story.ramp_s,
        window_s=story.window_s,
        seconds=story.seconds,
        shrunk=story.shrunk,
        broken_off_s=play.broken_off_s,
        fresh_setup_seconds=setup_seconds,
        gateway_exit_code=exit_code,
    )
    return score.summarise(judged, evidence, books, score.read_truth(stage.truth_file))


async def _perform_all(play: Play, ended: asyncio.Event) -> None:
    """One telling of the story, or until somebody ends it."""
    begun_s = time.monotonic()
    play.act = "normal operation"
    for moment in play.story.moments:
        if await _ended_within(ended, begun_s + moment.at_s - time.monotonic()):
            return
        await play.perform(moment.act)
    await _ended_within(ended, begun_s + play.story.seconds - time.monotonic())


async def _ended_within(ended: asyncio.Event, seconds: float) -> bool:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(max(0.0, seconds)):
            await ended.wait()
    return ended.is_set()


async def _until_ready(stage: Stage, session: aiohttp.ClientSession) -> None:
    """Every device online, the link up and the time trusted, as an installer would wait for before he leaves."""
    deadline_s = time.monotonic() + READY_S
    problem = "it does not answer"
    while time.monotonic() < deadline_s:
        if not stage.gateway.running:
            raise StageError(f"the gateway ended by itself: {stage.gateway.words()}")
        status = await stage.status(session)
        if status is not None:
            problem = str(status["sentence"])
            if status["verdict"] == "well":
                return
        await asyncio.sleep(0.1)
    raise StageError(f"the gateway did not get ready within {READY_S:g} s: {problem}; {stage.gateway.words()}")


async def _until_settled(stage: Stage, session: aiohttp.ClientSession, *, broken_off: bool) -> None:
    """Bounded: what is not settled by then counts against the run. Who broke it off waits for no end of a command."""
    deadline_s = time.monotonic() + SETTLED_S
    while time.monotonic() < deadline_s:
        status = await stage.status(session)
        if status is not None:
            settlement, commands = status["settlement"], status["commands"]
            assert isinstance(settlement, dict)
            assert isinstance(commands, list)
            running = [c for c in commands if c["state"] in ("received", "accepted", "partial", "executing")]
            evidence = status["evidence"]
            assert isinstance(evidence, dict)
            if broken_off and not settlement["windows_waiting"] and not evidence["batches_waiting"]:
                return
            if settlement["windows_countersigned"] and not settlement["windows_waiting"] and not running:
                return
        await asyncio.sleep(0.2)


@contextlib.asynccontextmanager
async def _shown(
    play: Play, session: aiohttp.ClientSession, seconds: float | None, *, quiet: bool
) -> AsyncIterator[None]:
    """Frames in the terminal, or a line now and then where there is none."""
    begun_s = time.monotonic()

    async def frames() -> None:
        with _live(quiet) as live:
            said_s = float("-inf")
            while True:
                elapsed_s = time.monotonic() - begun_s
                if live is not None or elapsed_s - said_s >= 5.0:
                    status = await play.stage.status(session)
                    if live is not None:
                        live.update(
                            screen.look(
                                status=status,
                                act=play.act,
                                elapsed_s=elapsed_s,
                                seconds=seconds,
                                cut=play.cut_since is not None,
                                page_url=play.stage.page_url,
                            )
                        )
                    else:
                        said_s = elapsed_s
                        print(screen.line(status, play.act, elapsed_s), file=sys.stderr, flush=True)
                await asyncio.sleep(FRAME_S)

    print(f"Status page: {play.stage.page_url}", file=sys.stderr, flush=True)
    task = asyncio.create_task(frames())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@contextlib.contextmanager
def _live(quiet: bool) -> Iterator[Live | None]:
    if quiet or not screen.console.is_terminal:
        yield None
        return
    with Live(console=screen.console, refresh_per_second=4, screen=False) as live:
        yield live


def main() -> int:
    """Exit code 0: nothing lost, rejected or disobeyed; 1: something was; 2: wrong use or it did not start."""
    parser = argparse.ArgumentParser(
        prog="./install.sh demo",
        description="Run the real gateway on a simulated site: chargers, PV, battery, meter and platform.",
    )
    parser.add_argument(
        "--seconds", type=float, default=None, help="length of the story (at least 30; default: endless)"
    )
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON object")
    parser.add_argument("--keep", type=Path, default=None, metavar="FOLDER", help="keep the run's files there")
    parser.add_argument("--setup-seconds", type=float, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    folder = options.keep.resolve() if options.keep is not None else Path(tempfile.mkdtemp(prefix="v2g-demo-"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise StageError(f"{folder} is not empty; name a new folder for this run")
        figures = asyncio.run(run(options.seconds, folder, setup_seconds=options.setup_seconds, quiet=options.json))
    except (StageError, EvidenceError, score.ScoreError, ValueError, OSError) as error:
        print(f"demo: {error}", file=sys.stderr)
        if options.json:
            print(json.dumps({"ok": False, "error": str(error)}))
        return 2
    finally:
        if options.keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    if options.json:
        print(json.dumps(figures, indent=2))
    else:
        screen.console.print(screen.summary(figures))
    return 0 if figures["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
