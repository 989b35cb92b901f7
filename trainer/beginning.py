"""Beginning: what becomes of a method before its first step, still on the CPU and whole: weights to begin with, and how it computes."""

from __future__ import annotations

from trainer import snapshot
from trainer.checkpoint import Checkpoint
from trainer.errors import RecipeError
from trainer.fingerprint import StoreFingerprint
from trainer.method import Method
from trainer.training import Training


def prepare(method: Method, recipe: Training, store: StoreFingerprint | None) -> list[str]:
    """As the recipe wants it, before it is on a device or shared out. Returns lines to say. Raises RecipeError, CheckpointError."""
    notes: list[str] = []
    if recipe.start_from is not None:
        begun = Checkpoint.open(recipe.start_from)
        notes.append(f"beginning with the weights of {begun.url}")
        if store is not None and begun.about.store is not None:
            notes += store.check_classes(begun.about.store, where=begun.url)
        try:
            method.start_from(snapshot.weights_of(begun))
        except ValueError as error:
            raise RecipeError(f"`start_from`: {begun.url}: {error}") from error
    try:
        method.checkpoint_gradients(recipe.gradient_checkpointing)
    except ValueError as error:
        raise RecipeError(f"`gradient_checkpointing`: {error}") from error
    if recipe.compile:
        if not method.blocks():
            raise RecipeError(f"`compile`: {type(method).__name__} has no blocks to compile; expected `compile: false`")
        for block in method.blocks():
            block.compile()
    return notes
