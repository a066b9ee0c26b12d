"""omni-nano: data, training, export and evaluation of the small model.

Every step is a command (`python -m nano.clips`, `.features`, `.train`, `.export`, `.eval`) that works in a
folder given by `--work`, is seeded, and goes on where it was stopped.
"""
