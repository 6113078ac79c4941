"""The HSM: the only room that touches PKCS#11. One owner thread, a bounded queue, signatures verified before release.

What is signed is decided elsewhere. No key material lives here or anywhere in the process.
"""
