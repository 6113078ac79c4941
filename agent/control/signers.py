"""Who has signed a command or a schedule, and over what their rights reach: the checks that both have to pass."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from agent.control.authorization import Signed
from agent.control.command import CLASS_PREFIX
from agent.control.errors import quoted
from agent.identity.trust import IssuerRights, Role, TrustList


class RefusalError(Exception):
    """Ends the checks with a reason."""

    def __init__(self, reason: str, *, alarm: bool = False) -> None:
        super().__init__(reason)
        self.alarm = alarm
        """Its issuer has said two things with one name."""


def required(trust: TrustList | None) -> TrustList:
    """Without a trust list nobody is trusted. Raises RefusalError."""
    if trust is None:
        raise RefusalError("there is no trust list here, so no signature can be trusted; install one")
    return trust


def trusted_signers(signed: Signed, issuer: str, trust: TrustList) -> list[IssuerRights]:
    """The trusted entries whose keys signed, in the order of the signatures; `issuer`: whom the body names.

    Raises RefusalError, CommandFormatError or EvidenceError.
    """
    found = []
    for index, claimed in enumerate(signed.signatures):
        rights = trust.rights_of(claimed.key_id)
        if rights is None:
            raise RefusalError(f"key {claimed.key_id.hex()[:16]} is not in trust list version {trust.version}")
        signed.verify(index, rights.key)
        found.append(rights)
    if len(found) == 2 and found[0].role is found[1].role:
        raise RefusalError(f"both signatures are {found[0].role.name.lower()}; dual control is by one of each role")
    ordering = ordering_of(found)
    if ordering.issuer != issuer:
        raise RefusalError(f"names issuer {quoted(issuer)}, but is signed by {quoted(ordering.issuer)}")
    return found


def ordering_of(signers: Sequence[IssuerRights]) -> IssuerRights:
    """Whose order it is: under dual control the operational signer's, whom governance lets."""
    return next((rights for rights in signers if rights.role is Role.OPERATIONAL), signers[0])


def resolved(targets: Collection[str], classes: Mapping[str, Collection[str]]) -> tuple[str, ...]:
    """The device ids that targets stand for: a class is all devices of it that are here when the command comes.

    Raises RefusalError for a class of which there is none: no target at all would be the whole site.
    """
    found: set[str] = set()
    for target in targets:
        members = classes.get(target.removeprefix(CLASS_PREFIX), ()) if target.startswith(CLASS_PREFIX) else (target,)
        if not members:
            raise RefusalError(f"names {quoted(target)}, of which there is none here")
        found.update(members)
    return tuple(targets) if found == set(targets) else tuple(sorted(found))


def check_reach(
    rights: IssuerRights,
    audience: str,
    targets: Collection[str],
    gateway_id: str,
    classes: Mapping[str, Collection[str]],
) -> None:
    """That somebody's rights reach this gateway, or each device that is named, by its id or its class.

    `targets` are device ids, resolved already. Raises RefusalError.
    """
    here = rights.covers(audience) or rights.covers(gateway_id)
    of_classes = {name for kind, members in classes.items() if rights.covers(CLASS_PREFIX + kind) for name in members}
    if not here and not (targets and all(rights.covers(target) or target in of_classes for target in targets)):
        raise RefusalError(f"{quoted(rights.issuer)} has no right over these targets")
