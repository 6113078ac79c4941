"""A platform that was built from the published contract alone, before there was any gateway: a process of its own.

It knows `device.proto` here and nothing of the gateway's: no statement, no proof, no sequence, no acknowledgement.
"""
