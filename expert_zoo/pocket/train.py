"""Train the pocket network on rendered scenes.

    python -m expert_zoo.pocket.train --seed 0 --scenes 8000 --steps 2400 --out pocket.safetensors

Renders the training scenes once into a cache folder, then trains with AdamW, a cosine schedule and an exponential average of the
weights, which is what is saved. Runs on CPU in bfloat16.
"""

from __future__ import annotations

import argparse
import queue
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from expert_zoo.pocket.loss import WEIGHTS, losses
from expert_zoo.pocket.network import PocketNetwork, save_network
from expert_zoo.pocket.scene_cache import EDGE_BIT, fill_cache

TRAIN_SEED = 1000
"""Scenes of this seed are for training, those of HELD_OUT_SEED in bench/pocket_accuracy.py for measuring."""


def train(
    *, seed: int, scenes: int, steps: int, batch: int, rate: float, cache: Path, out: Path, save_every: int
) -> None:
    torch.manual_seed(seed)
    arrays = fill_cache(cache, seed=TRAIN_SEED, count=scenes, workers=2)
    network = PocketNetwork().to(memory_format=torch.channels_last)
    averaged = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rate, total_steps=steps, pct_start=min(0.05, 200 / steps), final_div_factor=100
    )
    started = time.monotonic()
    running: dict[str, float] = {}
    for step, (image, target) in enumerate(prefetch(batches(arrays, seed=seed, batch=batch, steps=steps)), start=1):
        with torch.autocast("cpu", torch.bfloat16):
            out_now = network(image)
        parts = losses(out_now, target)
        loss = sum((WEIGHTS[name] * part for name, part in parts.items()), torch.zeros(()))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        keep = min(0.998, step / (step + 50))
        for name, tensor in network.state_dict().items():
            if tensor.is_floating_point():
                averaged[name].lerp_(tensor, 1 - keep)
        for name, part in parts.items():
            value = part.item()
            running[name] = 0.98 * running.get(name, value) + 0.02 * value
        if step % 50 == 0:
            each = "  ".join(f"{name} {value:.4f}" for name, value in running.items())
            print(f"step {step}/{steps}  {time.monotonic() - started:.0f} s  {each}", flush=True)
        if step % save_every == 0 or step == steps:
            save_network(averaged, out)


def batches(
    arrays: dict[str, NDArray[Any]], *, seed: int, batch: int, steps: int
) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """`steps` augmented batches: an epoch is a shuffle of all scenes."""
    rng = np.random.default_rng(seed)
    order = np.empty(0, dtype=np.int64)
    for _ in range(steps):
        if len(order) < batch:
            order = np.concatenate([order, rng.permutation(len(arrays["photo"]))])
        rows, order = np.sort(order[:batch]), order[batch:]
        images, targets = [], []
        for row in rows:
            scene = {name: np.asarray(array[row]) for name, array in arrays.items()}
            scene = mirrored(scene) if rng.random() < 0.5 else scene
            images.append(disturbed(scene["photo"], rng))
            targets.append(scene)
        image = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
        stacked = {name: np.stack([t[name] for t in targets]) for name in arrays if name != "photo"}
        yield (
            image.contiguous(memory_format=torch.channels_last),
            {
                "depth": torch.from_numpy(stacked["depth"]).float(),
                "normal": torch.from_numpy(stacked["normal"]).permute(0, 3, 1, 2).float() / 127,
                "edge": torch.from_numpy((stacked["classes"] & EDGE_BIT) > 0).float(),
                "classes": torch.from_numpy(stacked["classes"] & ~np.uint8(EDGE_BIT)).long(),
                "boxes": torch.from_numpy(stacked["boxes"]),
                "things": torch.from_numpy(stacked["things"]),
            },
        )


def mirrored(scene: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The scene seen in a mirror: normals change the sign of x, boxes swap their sides."""
    turned = {name: array[:, ::-1] for name, array in scene.items() if name in ("photo", "depth", "classes")}
    normal, boxes = scene["normal"][:, ::-1].copy(), scene["boxes"].copy()
    normal[..., 0] *= -1
    boxes[:, [0, 2]] = scene["photo"].shape[1] - boxes[:, [2, 0]]
    return {**turned, "normal": normal, "boxes": boxes, "things": scene["things"]}


def disturbed(photo_HW3: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Mild changes of tone and colour; sometimes blur, noise and JPEG."""
    ramp = np.arange(256) / 255.0
    tables = []
    bend, gain = np.exp(rng.uniform(-0.2, 0.2)), np.exp(rng.uniform(-0.15, 0.15))
    for _ in range(3):
        tables.append(np.clip(ramp**bend * gain * np.exp(rng.uniform(-0.06, 0.06)) * 255, 0, 255))
    changed = cv2.LUT(np.ascontiguousarray(photo_HW3), np.stack(tables, axis=1)[None].astype(np.uint8))
    if rng.random() < 0.2:
        changed = cv2.GaussianBlur(changed, (0, 0), rng.uniform(0.3, 0.9))
    if rng.random() < 0.3:
        noise = rng.integers(-128, 128, size=changed.shape, dtype=np.int8).astype(np.int16)
        changed = np.clip(changed + noise * rng.uniform(0.01, 0.07), 0, 255).astype(np.uint8)
    if rng.random() < 0.3:
        _, coded = cv2.imencode(".jpg", changed, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(50, 95))])
        changed = cv2.imdecode(coded, cv2.IMREAD_COLOR)
    return np.asarray(changed, dtype=np.uint8)


def prefetch(items: Iterator[Any], depth: int = 3) -> Iterator[Any]:
    """The same items, made ahead of time by a thread; its error is raised here."""
    ready: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(depth)

    def fill() -> None:
        try:
            for item in items:
                ready.put((item, None))
            ready.put((None, StopIteration()))
        except BaseException as error:
            ready.put((None, error))

    threading.Thread(target=fill, daemon=True).start()
    while True:
        item, error = ready.get()
        if isinstance(error, StopIteration):
            return
        if error is not None:
            raise error
        yield item


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the pocket network on rendered scenes.")
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights, the order and the augmentation")
    parser.add_argument(
        "--scenes", type=int, default=8000, help=f"how many scenes of seed {TRAIN_SEED} to render and train on"
    )
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, default=2e-3, help="highest learning rate")
    parser.add_argument(
        "--cache", type=Path, default=Path("pocket-scenes"), help="folder for the rendered scenes, 0.6 MB each"
    )
    parser.add_argument("--out", type=Path, default=Path("pocket.safetensors"))
    parser.add_argument("--save-every", type=int, default=250, help="steps between saves")
    train(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
