"""The simulated site: one physics world behind Modbus/SunSpec servers and OCPP 2.0.1 chargers.

`python -m hil_tests.rig.site --help` runs it as a process of its own; tests use `site.Site` or single parts.
The parts: world (physics) <- inverters, meter (SunSpec registers) <- modbus (TCP); world <- charger <- session (OCPP).
Signs and units are those of the project: + import, - export, watts, milliwatt-hours; a wire that differs converts.
"""
