"""Commands, targets, clamps and allocation -> a plan (pure), and the dispatcher that carries it out.

Every narrowing rule of the plan is one small piece with a name. Nothing here speaks to the platform or to a protocol of
a device; the dispatcher knows the Device protocol only.

`controller` is the shell, with its clock and tasks (`pacing`, `dispatcher`, `recorder`, `stop`, `input_watch`), and
`core` what decides: `intake` takes messages (`admission`, `authorization`), `book` keeps commands, `schedule_keeper`
schedules, `surroundings` what the site is like, and `plan` makes orders of them by the `rules`. `tape` records what
came in and went out, so that `rerun` can let it happen again; `simulation` runs the same plan on devices of its own.
"""
