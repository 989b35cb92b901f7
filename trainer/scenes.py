"""What is asked about rendered scenes: drawing a world again takes milliseconds, and training asks for the same ones in every epoch."""

from __future__ import annotations

import functools

from manifests.scenes import Question, parse_scene_uri, questions, sample_world

#: Scenes whose questions are kept, at some 10 KB each: two windows of shards that examples are shuffled in.
KEPT = 8192


@functools.lru_cache(maxsize=KEPT)
def questions_of(uri: str) -> tuple[Question, ...]:
    """All questions with one true answer about the scene at ``uri``, in a fixed order. Raises ValueError where it is no scene's."""
    return questions(sample_world(*parse_scene_uri(uri)))
