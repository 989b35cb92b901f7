"""Survival, tried: labelling on a cluster of several nodes while processes are killed, nodes lost, disks full and stores in trouble.

`python -m tests.chaos --minutes 15 --seed 1` (`make chaos`) does rounds: one store each, disturbed until it is complete. docs/survival.md
has the table of the last long run.
"""
