"""The platform's side of the settlement channels of one gateway: judges proposals, keeps states, then countersigns.

The rules are the ledger's own (agent/ledger/follower.py); here is what a platform adds: its memory and its key.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

from agent.ledger.errors import ChannelError
from agent.ledger.follower import Ruling, answer, countersignature, judge
from agent.ledger.frames import Message, Proposal, Reestablish, from_wire, to_wire
from agent.ledger.state import ChannelTerms, SignedState, decode_signed
from hil_tests.rig.platform.enrol import Enrolled
from hil_tests.rig.platform.keys import SoftwareKey
from proto.energysettlement.v1.gateway_pb2 import ChannelFrame

_DEVICE = "device:"

Commit = Callable[[bytes, str], None]
"""(SignedState encoded, device id): returns when it survives a power cut."""
Conflict = Callable[[str, bytes], None]
"""(what contradicts, the second content)."""
Windows = Callable[[str], Sequence[bytes]]
"""The settlement window statements of a device, from verified batches."""


class Channels:
    """One per gateway; a channel for each device whose key was enrolled."""

    def __init__(
        self,
        enrolled: Enrolled,
        key: SoftwareKey,
        *,
        windows: Windows,
        commit: Commit,
        conflict: Conflict,
        say: Callable[[dict[str, object]], None],
    ) -> None:
        self._enrolled = enrolled
        self._key = key
        self._windows = windows
        self._commit = commit
        self._conflict = conflict
        self._say = say
        self._terms = {
            use.removeprefix(_DEVICE): enrolled.terms(use.removeprefix(_DEVICE))
            for use in enrolled.keys
            if use.startswith(_DEVICE)
        }
        self._held: dict[str, SignedState] = {}
        self._waiting: dict[str, Proposal] = {}
        self.countersigned: Counter[str] = Counter()
        self.refusals: defaultdict[str, list[str]] = defaultdict(list)
        self.forks: Counter[str] = Counter()

    @property
    def device_ids(self) -> Sequence[str]:
        return sorted(self._terms)

    def held(self, device_id: str) -> SignedState | None:
        """The newest state that both signed."""
        return self._held.get(device_id)

    def restore(self, encoded: bytes, device_id: str) -> None:
        """Take a state back from the book."""
        self._held[device_id] = decode_signed(encoded)
        self.countersigned[device_id] += 1

    def receive(self, frame: ChannelFrame) -> list[ChannelFrame]:
        """Frames to send back. Raises ChannelError for a frame that is no message about a channel of this gateway."""
        terms = self._terms.get(frame.device_id)
        if terms is None or terms.channel_id != frame.channel_id:
            raise ChannelError(f"no channel {frame.channel_id.hex()[:16]!r} for device {frame.device_id[:64]!r}")
        match from_wire(frame):
            case Proposal() as proposal:
                return self._judge(terms, proposal)
            case Reestablish(is_answer=False) as question:
                return self._answer(terms, question)
            case _:
                raise ChannelError("the gateway leads and the platform follows; this message goes the other way")

    def windows_arrived(self) -> list[ChannelFrame]:
        """Judge again what waited for windows."""
        waiting, self._waiting = self._waiting, {}
        return [
            frame for device_id, proposal in waiting.items() for frame in self._judge(self._terms[device_id], proposal)
        ]

    def _judge(self, terms: ChannelTerms, proposal: Proposal) -> list[ChannelFrame]:
        device_id = terms.device_id
        held = self._held.get(device_id)
        device_key = self._enrolled.keys[_DEVICE + device_id]
        verdict = judge(held, proposal, terms, device_key, self._windows(device_id))
        self._waiting.pop(device_id, None)
        match verdict.ruling:
            case Ruling.COUNTERSIGN:
                signed = verdict.countersigned(self._key.sign_digest_now(verdict.digest))
                self._commit(signed.encode(), device_id)
                self._held[device_id] = signed
                self.countersigned[device_id] += 1
                self._say(
                    {
                        "event": "countersigned",
                        "device_id": device_id,
                        "incarnation": signed.state.incarnation,
                        "version": signed.state.version,
                        "window_end_us": signed.state.window_end_us,
                        "net_wh": signed.state.net_wh,
                    }
                )
                return [self._frame(terms, countersignature(signed))]
            case Ruling.REPEAT:
                assert held is not None
                return [self._frame(terms, countersignature(held))]
            case Ruling.WAIT:
                self._waiting[device_id] = proposal
                return []
            case Ruling.FORK:
                self.forks[device_id] += 1
                self._conflict(f"fork: {verdict.reason}", proposal.state)
            case Ruling.REFUSE:
                pass
        self.refusals[device_id].append(verdict.reason)
        self._say({"event": "channel_refused", "device_id": device_id, "reason": verdict.reason})
        return [self._frame(terms, verdict.refused())]

    def _answer(self, terms: ChannelTerms, question: Reestablish) -> list[ChannelFrame]:
        device_id = terms.device_id
        reply = answer(
            self._held.get(device_id),
            question,
            terms,
            self._enrolled.keys[_DEVICE + device_id],
            self._key.verify_key,
        )
        if reply.adopt is not None:
            self._commit(reply.adopt.encode(), device_id)
            self._held[device_id] = reply.adopt
        return [self._frame(terms, reply.message)]

    def _frame(self, terms: ChannelTerms, message: Message) -> ChannelFrame:
        return to_wire(terms.device_id, terms.channel_id, message)
