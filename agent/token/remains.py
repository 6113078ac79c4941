"""What SoftHSM leaves of a pair of keys when it dies while it makes them: a public half alone, or a hollow private one.

It writes a new key in some thirty steps, and its value with the last. None of it can ever sign, and it stands in the
way of the next try under the same id.
"""

from __future__ import annotations

import time
from typing import Final

import pkcs11
import pkcs11.exceptions as p11
from pkcs11 import Attribute, ObjectClass

from agent.token.custody import flag_of
from agent.token.errors import KeyExistsError
from agent.token.keys import name_of

SETTLES_S: Final = 2.0
"""A pair that another process makes at this moment is whole by then."""
LOOK_EVERY_S: Final = 0.01


def is_hollow(private: pkcs11.Object) -> bool:
    """Whether a private key has no value yet: no origin, and neither a curve nor a modulus, which come with it."""
    if flag_of(private, Attribute.LOCAL) is not False:
        return False
    for attribute in (Attribute.EC_PARAMS, Attribute.MODULUS):
        try:
            return not private[attribute]
        except (p11.AttributeTypeInvalid, p11.AttributeSensitive):
            continue
    return False


def remove(session: pkcs11.Session, key_id: bytes) -> None:
    """Make room for a key, in a session that may write. Raises KeyExistsError for what is more than remains."""
    # Without a login private keys are not refused, they are simply not there: only who is logged in can make this.
    private = {Attribute.CLASS: ObjectClass.DATA, Attribute.PRIVATE: True, Attribute.TOKEN: False}
    session.create_object(private).destroy()
    until_s = time.monotonic() + SETTLES_S
    while True:
        found = list(session.get_objects({Attribute.ID: key_id}))
        if any(not _is_remains(thing) for thing in found):
            raise KeyExistsError(f"key {name_of(key_id)} is there already; keys are never written over")
        if not found:
            return
        if time.monotonic() > until_s:
            break
        time.sleep(LOOK_EVERY_S)
    for thing in found:
        thing.destroy()


def _is_remains(thing: pkcs11.Object) -> bool:
    return isinstance(thing, pkcs11.PublicKey) or (isinstance(thing, pkcs11.PrivateKey) and is_hollow(thing))
