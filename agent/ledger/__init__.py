"""Settlement windows and the off-chain channel, as pure transitions: (state, input) -> (state, outputs).

No I/O, no clock: the gateway feeds readings and messages in, commits what comes out, and only then sends it.
"""
