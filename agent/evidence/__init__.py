"""Evidence: statements -> sealed batch -> receipt, and the verification of each. Pure: signing happens outside.

The format is proto/EVIDENCE.md; this package is one implementation of it, the vectors beside it are the judge.
"""
