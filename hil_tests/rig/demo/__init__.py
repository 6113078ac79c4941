"""The demo: the real agent on a simulated site and platform, told as a story, and judged from the outside.

`story` says when what happens, `stage` starts the processes, `screen` shows them, `score` judges by what the simulated
meters and the platform's books say. Nothing here knows how the agent works inside.
"""
