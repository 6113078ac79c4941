"""TLS key exchange that no quantum computer of tomorrow opens from a recording of today, where libraries have it.

The hybrid group X25519MLKEM768 (ML-KEM-768 beside X25519) is preferred and never demanded. gRPC brings a TLS library
that offers it first by itself. Python's ssl, which MQTT uses, offers it from OpenSSL 3.5 on, first in its own list;
where Python lets us (3.15), the order is ours.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Final, cast

HYBRID: Final = "X25519MLKEM768"
GROUPS: Final = f"{HYBRID}:X25519:P-256:P-384"
"""In order of preference, as OpenSSL names them."""
_OFFERED_BY_ITSELF: Final = (3, 5)
"""OpenSSL from this version on."""


def prefer_hybrid(context: ssl.SSLContext) -> bool:
    """Whether this context offers a hybrid group, put first where it can be. Without one TLS is as before."""
    set_groups = cast("Callable[[str], None] | None", getattr(context, "set_groups", None))
    if set_groups is not None:
        try:
            set_groups(GROUPS)
        except (ssl.SSLError, ValueError):
            # The library has no such group: its own list stays.
            return False
        return True
    return ssl.OPENSSL_VERSION_INFO[:2] >= _OFFERED_BY_ITSELF
