"""How far one driver goes without the hardware: simulated GPU workers by number, and the driver by number of units.

Run as `python -m bench.scaling actors`, `... units` and `... shards`; the record is docs/scaling.md.
"""
