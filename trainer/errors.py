"""What can go wrong for a user in training: the trainer's branch of the family in pipeline/errors.py.

TrainingError                  one line: fact, expectation, way out; nothing was overwritten
 |- RecipeError                a recipe asks for something that cannot be, or for something else than the run was begun with
 |- CheckpointError            a checkpoint is damaged, or of another model or store
 `- NotFinite                  the loss or its gradients are no numbers any more
"""

from __future__ import annotations

from pipeline.errors import ExpertLabelsError


class TrainingError(ExpertLabelsError):
    """Training cannot begin, or cannot go on."""


class RecipeError(TrainingError):
    """A recipe asks for something that cannot be."""


class CheckpointError(TrainingError):
    """A checkpoint is damaged, or of another model or store."""


class NotFinite(TrainingError):
    """The loss or its gradients are no numbers any more."""
