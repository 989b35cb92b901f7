"""Rendered indoor scenes with exact ground truth: worlds drawn from a seed, their photos and labels, captions and questions.

world = sample_world(seed=7, index=0)
rendering = render(world)
captions(world), questions(world)
"""

from manifests.scenes.language import Question, captions, questions
from manifests.scenes.render import Rendering, render
from manifests.scenes.sampling import sample_world
from manifests.scenes.uri import parse_scene_uri, render_uri, scene_uri
from manifests.scenes.world import CLASSES, THINGS, World

__all__ = [
    "CLASSES",
    "THINGS",
    "Question",
    "Rendering",
    "World",
    "captions",
    "parse_scene_uri",
    "questions",
    "render",
    "render_uri",
    "sample_world",
    "scene_uri",
]
