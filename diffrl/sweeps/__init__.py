"""Sweeps of many trainings, from the words of a command line to a report.

In order: `axes` reads what varies, `plan` makes groups of it, `subjects` looks at what they train on, `costs` measures them,
`parts` splits what does not fit into memory, `forecast` says what it will cost, `record` keeps it on disk, `slurm` makes jobs of
it; `results`, `report` and `plot` say what came of it.
"""
