"""Everything that speaks to hardware: chargers (`ocpp/`) and inverters, batteries and meters (`sunspec/`).

`device.py` is the vocabulary that both sides share; a new kind of device is one more driver that fulfils its protocol.
Nothing here imports `agent/`: what a driver must keep or sign goes through the Journal and Signer that it is given.
No driver decides what a device ought to do; drivers carry out setpoints and report what was measured.
"""
