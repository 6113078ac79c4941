"""What `gateway.py` puts together: the async shells around the pure rooms (measuring, sealing, settling), the makers of
devices from the configuration, supervision of tasks, and the overview for the faces.

Each shell is one loop: take what is there, let the room decide, commit, pass on. Nothing here knows a device's protocol
or the platform's, and nothing here decides what a room ought to decide.
"""
