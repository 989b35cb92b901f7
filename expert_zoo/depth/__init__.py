"""Experts for depth: ``dpt`` (Prismer's), ``depth_anything`` (today's)."""
