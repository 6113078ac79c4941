"""The rules of the plan, one file for each concern, in the order in which they apply: each can undo the one before.

`needs` what a device can and may do at all, `defaults` and `targets` what is wanted of it, then the narrowing: `needs`
again, `limits` (CURTAIL and import limits, the connection, its phases), and `stop` last.
"""
