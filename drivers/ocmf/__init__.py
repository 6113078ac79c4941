"""Signed meter values (OCMF, the Open Charge Metering Format of S.A.F.E. e.V.): reading them, and judging signatures.

Pure: text and a key that somebody registered go in, a verdict with its reason comes out. A key in a message is never a
reason to believe it. `record` takes a record apart, `keys` reads public keys as meters print them, `curves` names the
curves and counts on those that no library has, `judge` says verified, unverifiable or wrong. Knows no charger.
"""
