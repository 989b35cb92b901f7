"""How far one driver goes without the hardware: simulated GPU workers by number, and the driver by number of units.

Run as `python -m bench.scaling actors` and `python -m bench.scaling units`; the record is docs/scaling.md.
"""
