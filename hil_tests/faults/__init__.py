"""Fault injection: `python -m hil_tests.faults` does to a real gateway what power, disks, tokens and networks do.

After each fault a judge who knows what the store has promised looks at what is left: `judge.py`.
"""
