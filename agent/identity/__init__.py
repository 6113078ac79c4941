"""Who we are and whom we trust: identifiers, their history, certificates, enrolment, the trust list of command issuers.

Keys are in `token/`; here are names for them (`did:key`, and `did:v2g` by a `history` of signed `orders`), the
documents that others signed about them, the site's own CA, and the second key, which no token holds (`countersigner`).
"""
