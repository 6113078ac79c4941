"""One simulated charger with its car, against any CSMS: `python -m hil_tests.rig.charger --help`.

The charger and its conversation are those of `hil_tests.rig.site`; here is what it needs to stand alone.
"""
