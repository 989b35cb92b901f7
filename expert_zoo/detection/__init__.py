"""Experts for objects: ``detectron`` (any detectron2 model, Prismer's among them), ``rtdetr``, ``open_vocabulary``."""
