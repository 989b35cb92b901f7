"""Benchmarks: what a part of this package costs, measured in one run, as ratios where the machine would otherwise decide.

``run`` runs all parts; each part (``python -m bench.throughput``, ...) runs alone. Nothing here is asserted in a test.
"""
