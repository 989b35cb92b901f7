"""Scenes: the same everywhere, exact, and described truly."""

from __future__ import annotations

import hashlib
from math import cos, sin

import numpy as np
import pytest

from manifests.scenes import (
    CLASSES,
    THINGS,
    Question,
    Rendering,
    World,
    captions,
    parse_scene_uri,
    questions,
    render,
    render_uri,
    sample_world,
    scene_uri,
)
from manifests.scenes.language import unique_name
from manifests.scenes.solids import Solid, world_solids
from manifests.scenes.words import WORDS
from manifests.scenes.world import COLOURS, SHAPES, Texture

SEED = 77


@pytest.fixture(scope="module")
def scenes() -> list[tuple[World, Rendering]]:
    worlds = [sample_world(SEED, index) for index in range(24)]
    return [(world, render(world)) for world in worlds]


def test_worlds_are_the_same_on_every_machine() -> None:
    text = "\n".join(repr(sample_world(3, index)) for index in range(20))
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "06e8bbb687ffbc46"


def test_worlds_differ_by_seed_and_index() -> None:
    assert len({repr(sample_world(seed, index)) for seed in range(3) for index in range(5)}) == 15


def test_size_changes_nothing_but_the_pixels() -> None:
    small, large = sample_world(5, 1, 64), sample_world(5, 1, 512)
    assert (small.things, small.sign, small.camera) == (large.things, large.sign, large.camera)
    assert render(small).photo_HW3.shape == (64, 64, 3)


def test_pixels_stay_what_they_were() -> None:
    rendering = render(sample_world(3, 0))
    # Means over blocks of 64 pixels: an ulp of difference between machines does not show, a change of the renderer does.
    blocks = rendering.photo_HW3.astype(float).reshape(4, 64, 4, 64, 3).mean(axis=(1, 3, 4))
    np.testing.assert_allclose(
        blocks,
        [
            [159.9, 163.1, 162.3, 154.2],
            [152.0, 152.7, 141.1, 134.2],
            [148.3, 142.6, 145.3, 144.3],
            [169.2, 168.0, 164.9, 160.6],
        ],
        atol=0.5,
    )
    assert rendering.depth_HW.mean() == pytest.approx(3.4692, abs=1e-3)


def test_shapes_and_types(scenes: list[tuple[World, Rendering]]) -> None:
    for world, r in scenes:
        size, things = world.size, len(world.things) + 1
        assert r.photo_HW3.shape == r.normal_HW3.shape == (size, size, 3)
        assert r.depth_HW.shape == r.edge_HW.shape == r.class_HW.shape == r.instance_HW.shape == (size, size)
        kinds = [a.dtype.name for a in (r.photo_HW3, r.depth_HW, r.normal_HW3, r.edge_HW, r.class_HW, r.boxes_K4)]
        assert kinds == ["uint8", "float32", "float32", "uint8", "uint8", "float32"]
        assert r.boxes_K4.shape == (things, 4) and r.class_ids_K.shape == (things,)
        assert r.polygons_P42.shape == (1, 4, 2) and r.texts_P == (world.sign.word,)


def test_normals_are_unit_and_face_the_camera(scenes: list[tuple[World, Rendering]]) -> None:
    for world, r in scenes:
        np.testing.assert_allclose(np.linalg.norm(r.normal_HW3, axis=2), 1.0, atol=1e-4)
        facing = (r.normal_HW3 * camera_rays(world)).sum(axis=2)
        assert facing.max() < 1e-3


def test_floor_normals_point_up(scenes: list[tuple[World, Rendering]]) -> None:
    for world, r in scenes:
        up = (0.0, cos(world.camera.pitch), sin(world.camera.pitch))
        floor = r.normal_HW3[r.class_HW == CLASSES.index("floor")]
        np.testing.assert_allclose(floor, np.broadcast_to(up, floor.shape), atol=1e-5)


def test_depth_of_the_floor_is_analytic(scenes: list[tuple[World, Rendering]]) -> None:
    for world, r in scenes:
        height = world.camera.height
        below = -(camera_rays(world) @ np.array([0.0, cos(world.camera.pitch), sin(world.camera.pitch)]))
        floor = r.class_HW == CLASSES.index("floor")
        np.testing.assert_allclose(r.depth_HW[floor], height / below[floor], rtol=1e-4)


def test_points_of_things_lie_on_their_surfaces(scenes: list[tuple[World, Rendering]]) -> None:
    checked = set()
    for world, r in scenes:
        points_HW3 = world_points(world, r.depth_HW)
        for number, thing in enumerate(world.things):
            x, y, z = (points_HW3[r.instance_HW == number + 1] - [thing.x, 0.0, thing.z]).T
            flat = np.hypot(x, z)
            if thing.shape == "ball":
                off = np.sqrt(flat**2 + (y - thing.half_x) ** 2) - thing.half_x
            elif thing.shape == "cone":
                off = (
                    (flat - thing.half_x * (1 - y / thing.height)) * thing.height / np.hypot(thing.height, thing.half_x)
                )
            elif thing.shape == "cylinder":
                off = np.maximum(flat - thing.half_x, np.abs(y - thing.height / 2) - thing.height / 2)
            else:
                own_x = cos(thing.yaw) * x - sin(thing.yaw) * z
                own_z = sin(thing.yaw) * x + cos(thing.yaw) * z
                excess = [
                    np.abs(own_x) - thing.half_x,
                    np.abs(y - thing.height / 2) - thing.height / 2,
                    np.abs(own_z) - thing.half_z,
                ]
                off = np.max(excess, axis=0)
            assert np.abs(off).max() < 2e-4, (thing.shape, np.abs(off).max())
            checked.add(thing.shape)
    assert checked == set(SHAPES)


def test_normals_are_the_slope_of_the_depth(scenes: list[tuple[World, Rendering]]) -> None:
    """Inside a surface the cross product of neighbouring points is the normal: catches any swapped axis or sign."""
    for world, r in scenes:
        points = camera_rays(world) * r.depth_HW[..., None]
        across, down = points[1:-1, 2:] - points[1:-1, :-2], points[2:, 1:-1] - points[:-2, 1:-1]
        slope = np.cross(down, across)
        slope /= np.linalg.norm(slope, axis=2, keepdims=True)
        near_edge = r.edge_HW.astype(bool)
        for _ in range(2):
            padded = np.pad(near_edge, 1)
            near_edge = padded[1:-1, 1:-1] | padded[2:, 1:-1] | padded[:-2, 1:-1] | padded[1:-1, 2:] | padded[1:-1, :-2]
        inside = ~near_edge[1:-1, 1:-1]
        cosine = (slope * r.normal_HW3[1:-1, 1:-1]).sum(axis=2)[inside]
        assert np.percentile(cosine, 1) > 0.99


def test_boxes_are_tight_and_of_the_right_class(scenes: list[tuple[World, Rendering]]) -> None:
    for world, r in scenes:
        names = [thing.shape for thing in world.things] + ["sign"]
        assert [THINGS[i] for i in r.class_ids_K] == names
        for number, (box, name) in enumerate(zip(r.boxes_K4.astype(int), names, strict=True)):
            mask = r.instance_HW == number + 1
            assert (r.class_HW[mask] == CLASSES.index(name)).all()
            x0, y0, x1, y1 = box
            assert mask[y0:y1, x0:x1].sum() == mask.sum()
            assert mask[y0].any() and mask[y1 - 1].any() and mask[:, x0].any() and mask[:, x1 - 1].any()
        assert ((r.instance_HW == 0) == (r.class_HW <= CLASSES.index("wall"))).all()


def test_every_thing_is_plainly_visible(scenes: list[tuple[World, Rendering]]) -> None:
    for world, r in scenes:
        assert 2 <= len(world.things) <= 6
        assert min(int((r.instance_HW == n + 1).sum()) for n in range(len(world.things) + 1)) > 80


def test_edges_are_thin_and_where_instances_meet(scenes: list[tuple[World, Rendering]]) -> None:
    for _, r in scenes:
        ids = r.instance_HW.astype(int)
        meets = np.zeros(ids.shape, dtype=bool)
        across, down = ids[:, 1:] != ids[:, :-1], ids[1:] != ids[:-1]
        meets[:, 1:] |= across
        meets[:, :-1] |= across
        meets[1:] |= down
        meets[:-1] |= down
        edge = r.edge_HW.astype(bool)
        # Of every pair of neighbours of two instances one is an edge, never both of all of them: lines are one pixel wide.
        assert ((edge[:, 1:] | edge[:, :-1])[across]).all() and ((edge[1:] | edge[:-1])[down]).all()
        assert 0.3 < (edge & meets).sum() / meets.sum() < 0.75
        assert set(np.unique(r.edge_HW)) == {0, 1}


def test_word_polygon_holds_the_ink(scenes: list[tuple[World, Rendering]]) -> None:
    for world, r in scenes:
        assert world.sign.word in WORDS
        polygon = r.polygons_P42[0]
        sign = r.instance_HW == len(world.things) + 1
        columns, rows = np.floor(polygon).astype(int).T
        assert sign[rows, columns].all(), "the corners of the word lie on the visible sign"
        top_left, top_right, bottom_right, bottom_left = polygon
        assert top_left[0] < top_right[0] and bottom_left[0] < bottom_right[0]
        assert top_left[1] < bottom_left[1] and top_right[1] < bottom_right[1]
        assert min(bottom_left[1] - top_left[1], bottom_right[1] - top_right[1]) > 12
        luma = r.photo_HW3.astype(float).mean(axis=2)
        inner = luma[rows.min() : rows.max(), columns.min() : columns.max()]
        assert inner.std() > 20, "ink on paper"


def test_questions_are_true_of_the_picture(scenes: list[tuple[World, Rendering]]) -> None:
    seen = set()
    for world, r in scenes:
        # Names given by any choice of adjectives that is unique lead back to one thing.
        choices = [("colour", "size", "pattern"), ("size", "pattern"), ("colour", "pattern")]
        named = [(unique_name(world, t, c), n) for n, t in enumerate(world.things) for c in choices]
        names = {name: n for name, n in named if name} | {"the sign": len(world.things)}
        for asked in questions(world):
            assert answer_from_picture(asked, world, r, names), asked
            seen.add(asked.kind)
    assert seen == {"colour", "count", "size", "depth", "position", "word"}


def answer_from_picture(asked: Question, world: World, r: Rendering, names: dict[str, int]) -> bool:
    """Whether the rendered truth gives the same answer."""
    text, answer = asked.question, asked.answer
    if asked.kind == "word":
        return r.texts_P == (answer,)
    if asked.kind == "count":
        subject = text.split()[2]
        singular = {"balls": "ball", "boxes": "box", "cylinders": "cylinder", "cones": "cone"}.get(subject)
        if singular:
            return int((r.class_ids_K == THINGS.index(singular)).sum()) == int(answer)
        if subject == "objects":
            return len(r.boxes_K4) - 1 == int(answer)
        return sum(t.colour == subject for t in world.things) == int(answer)
    if asked.kind == "colour":
        return world.things[names[text[len("What color is ") : -1]]].colour == answer
    if asked.kind == "size":
        return world.things[names[text[len("Is ") : -len(" small or large?")]]].size == answer
    if asked.kind == "depth":
        a, b = text[len("Which is nearer to the camera, ") : -1].split(" or ")
        other = b if answer == a else a
        near, far = (r.depth_HW[r.instance_HW == names[name] + 1] for name in (answer, other))
        return bool(near.max() < far.min())
    a, b = text[len("Is ") : -1].split(" to the left or to the right of ")
    one, two = r.boxes_K4[names[a]], r.boxes_K4[names[b]]
    return bool(one[2] <= two[0]) if answer == "left" else bool(one[0] >= two[2])


def test_colour_words_are_seen_in_the_picture(scenes: list[tuple[World, Rendering]]) -> None:
    """The hue of a thing's pixels is nearest to its own colour's among all named colours."""
    directions = {name: np.array(c) / np.linalg.norm(c) for name, c in COLOURS.items()}
    right = total = 0
    for world, r in scenes:
        for number, thing in enumerate(world.things):
            if thing.pattern != "plain":
                continue
            linear = (r.photo_HW3[r.instance_HW == number + 1] / 255.0) ** 2
            mean = np.median(linear, axis=0)
            cosines = {name: float(mean @ d / np.linalg.norm(mean)) for name, d in directions.items()}
            right += max(cosines, key=lambda name: cosines[name]) == thing.colour
            total += 1
    assert total > 20 and right / total > 0.9


def test_captions_are_several_and_name_what_is_there(scenes: list[tuple[World, Rendering]]) -> None:
    for world, _ in scenes:
        texts = captions(world)
        assert len(texts) == 5 and len(set(texts)) >= 4 and texts == captions(world)
        assert any(world.sign.word in text for text in texts)
        for text in texts:
            named = [shape for shape in SHAPES if shape in text.lower().replace("boxes", "box").split()]
            assert set(named) <= {t.shape for t in world.things}, text
            assert {c for c in COLOURS if c in text.lower().split()} <= {t.colour for t in world.things}, text


def test_cone_is_met_by_steep_rays() -> None:
    """Rays steeper than the cone's side, whose quadratic has the other sign, from above and (as shadow rays do) from below."""
    coat = Texture(pattern="plain", first=(1, 1, 1), second=(1, 1, 1), scale=1, angle=0)
    cone = Solid(
        kind="cone",
        instance=0,
        class_id=5,
        x=0,
        y=0,
        z=0,
        half_x=0.5,
        half_z=0.5,
        height=1,
        yaw=0,
        gloss=0,
        texture=coat,
    )
    x = np.array([0.0, 0.25, 0.49, 0.51])
    zero = np.zeros(4)
    down = cone.enter((x, zero + 3, zero), (zero, zero - 1, zero))
    np.testing.assert_allclose(down[:3], [2.0, 2.5, 2.98], atol=1e-6)
    assert down[3] > 1e8
    near, far = cone.span((x, zero - 1, zero), (zero, zero + 1, zero))
    np.testing.assert_allclose(near[:3], 1.0, atol=1e-6)
    np.testing.assert_allclose(far[:3], [2.0, 1.5, 1.02], atol=1e-6)
    assert near[3] > far[3]


def test_sign_is_read_from_its_front_only() -> None:
    world = sample_world(SEED, 0)
    board = world_solids(world)[len(world.things)]
    front = np.array(world.sign.front(0.0, world.sign.text_middle))
    assert np.linalg.norm(front - [board.x, front[1], board.z]) == pytest.approx(world.sign.THICKNESS / 2)
    assert front[2] > board.z, "towards the camera"


def test_uri_goes_there_and_back() -> None:
    assert scene_uri(7, 42, 128) == "scenes://7/42?size=128"
    assert parse_scene_uri("scenes://7/42?size=128") == (7, 42, 128)
    assert parse_scene_uri("scenes://7/42") == (7, 42, 256)


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "file:///a.jpg",
        "scenes://7",
        "scenes://-1/2?size=64",
        "scenes://7/42?size=64&x=1",
        "scenes://7/4.2",
        "scenes://7/42\n",
    ],
)
def test_uri_of_something_else_is_refused(uri: str) -> None:
    with pytest.raises(ValueError, match="is no scene address"):
        parse_scene_uri(uri)


@pytest.mark.parametrize("arguments", [(-1, 0, 256), (0, -1, 256), (0, 0, 16), (0, 0, 4096)])
def test_worlds_outside_the_limits_are_refused(arguments: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="must"):
        sample_world(*arguments)


def test_render_uri_is_the_rendering_and_cannot_be_written() -> None:
    rendering = render_uri(scene_uri(SEED, 0))
    assert rendering is render_uri(scene_uri(SEED, 0))
    np.testing.assert_array_equal(rendering.photo_HW3, render(sample_world(SEED, 0)).photo_HW3)
    with pytest.raises(ValueError, match="read-only"):
        rendering.photo_HW3[0, 0] = 0


def camera_rays(world: World) -> np.ndarray:
    """(H, W, 3) directions in the camera frame through pixel centres, with z = -1, written from the pinhole model."""
    steps = (np.arange(world.size) + 0.5 - world.size / 2) / (world.camera.focal * world.size)
    x, y = np.meshgrid(steps, -steps)
    return np.stack([x, y, -np.ones_like(x)], axis=2)


def world_points(world: World, depth_HW: np.ndarray) -> np.ndarray:
    """(H, W, 3) world points of a depth map, turned and lifted by hand rather than with the renderer's own camera."""
    points = camera_rays(world) * depth_HW[..., None].astype(float)
    pitch, yaw = world.camera.pitch, world.camera.yaw
    lower = np.array([[1, 0, 0], [0, cos(pitch), sin(pitch)], [0, -sin(pitch), cos(pitch)]])
    turn = np.array([[cos(yaw), 0, -sin(yaw)], [0, 1, 0], [sin(yaw), 0, cos(yaw)]])
    return points @ (turn @ lower).T + [0.0, world.camera.height, 0.0]
