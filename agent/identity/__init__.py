"""Who we are and whom we trust: identifiers (did:key), certificate requests, and the trust list of command issuers.

Keys are in `token/`; here are names for them and the documents that others signed about them.
"""
