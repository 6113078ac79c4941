"""The platform of the rig: enrols gateways, verifies and acknowledges their evidence, countersigns, issues commands.

It speaks the published contract and the gateway's additions, believes nothing that it cannot verify with the keys that
it was given at enrolment, and keeps books of all of it. `python -m hil_tests.rig.platform --help`.
"""
