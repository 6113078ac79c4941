"""Whether a private key was born in its token and stays there, by what the token says of it."""

from __future__ import annotations

from collections.abc import Callable

import pkcs11
import pkcs11.exceptions as p11
from pkcs11 import Attribute


def fault_of(flag: Callable[[Attribute], bool | None]) -> str | None:
    """Why a private key is not one that was born in the token and stays there; None when it is.

    What a token does not say (None) counts as the bad answer, except NEVER_EXTRACTABLE, which some leave out.
    """
    if flag(Attribute.EXTRACTABLE) is not False:
        return "it can leave the token (CKA_EXTRACTABLE); make a new one"
    if flag(Attribute.NEVER_EXTRACTABLE) is False:
        return "it could leave the token once (not CKA_NEVER_EXTRACTABLE); make a new one"
    if flag(Attribute.SENSITIVE) is not True:
        return "its value can be read (not CKA_SENSITIVE); make a new one"
    if flag(Attribute.LOCAL) is not True:
        return "it was imported, so a copy may exist (not CKA_LOCAL); make a new one"
    if flag(Attribute.SIGN) is not True:
        return "it is not for signing (not CKA_SIGN); make a new one"
    return None


def flag_of(thing: pkcs11.Object, attribute: Attribute) -> bool | None:
    """An attribute; None when the token does not know it."""
    try:
        return bool(thing[attribute])
    except (p11.AttributeTypeInvalid, p11.AttributeSensitive):
        return None
