"""Sample -> Reading: cumulative registers to integer Wh, meter epochs, quality. Pure: no I/O, no clock, no randomness.

What a device says comes in as a Sample; what we are ready to sign goes out as a Reading. Nothing is signed here.
`meter.step` is the way in; `state.MeterState` is what the gateway keeps between two samples.
"""

from agent.measure.meter import MeteredDevice, Oddity, Step, step
from agent.measure.reading import Quality, Reading
from agent.measure.state import MeasureError, MeterState

__all__ = ["MeasureError", "MeterState", "MeteredDevice", "Oddity", "Quality", "Reading", "Step", "step"]
