"""The HSM: the only room that touches PKCS#11 or the TPM. One owner thread, a bounded queue, signatures verified before
release.

What is signed is decided elsewhere. No private key of the token is ever in the process. `wrapping` opens the secrets of
keys that no token can hold (the ML-DSA key of `identity/countersigner`); `counter`, `quote` and `pin` ask the TPM.
"""
