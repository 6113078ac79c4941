"""Commands, targets, clamps and allocation -> a plan (pure), and the dispatcher that carries it out.

Every narrowing rule of the plan is one small piece with a name. Nothing here speaks to the platform or to a protocol of
a device; the dispatcher knows the Device protocol only.
"""
