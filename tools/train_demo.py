"""Train the bundled demo model on rendered scenes: a small stand-in until `ntre train` makes it.

    python tools/train_demo.py OUT.safetensors --minutes 45

The backbone starts from random weights.  Scenes with an object of the held-out fold are not used at all, so that the
demo's classes are new to every weight.  The loss is the released code's without the contrastive term (main
cross-entropy, BG mining with alpha 0.5, 0.4 x final inner, 0.6 x initial), plus a dense classification of the base
classes on layer 4, which also trains the backbone alone at first.
"""

import argparse
import math
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from ntre_deploy.data.folds import base_classes, novel_classes
from ntre_deploy.data.procedural import CLASSES, render_scene
from ntre_deploy.model.checkpoint import save_checkpoint
from ntre_deploy.model.config import ModelConfig
from ntre_deploy.model.losses import target_loss, total_loss
from ntre_deploy.model.matching import resize
from ntre_deploy.model.ntrenet import NTRENet
from ntre_deploy.model.weights import import_weights
from ntre_deploy.runtime.image import InputSpec, prepare_image

CONFIG = ModelConfig(
    backbone="squeezenet1_1", width=48, bg_channels=48, bg_init="normal", bins=(21, 10, 5, 3), input_size=161
)
SPLIT = "interleaved"
# the least visible pixels, in the network's input, for a class to be asked for
LEAST = 350


@dataclass
class Pool:
    """Scenes at input size: uint8 images [n, S, S, 3], labels [n, S, S], 0 the background, 255 outside."""

    images: np.ndarray
    labels: np.ndarray
    holders: dict[int, np.ndarray]


def render_pool(count: int, seed: int, classes: tuple[int, ...], forbidden: tuple[int, ...]) -> Pool:
    size = CONFIG.input_size
    images = np.empty((count, size, size, 3), np.uint8)
    labels = np.full((count, size, size), 255, np.uint8)
    spec = InputSpec(size)
    done = index = 0
    while done < count:
        scene = render_scene(index, seed)
        index += 1
        if np.isin(scene.labels, [c + 1 for c in forbidden]).any():
            continue
        pixels, box = prepare_image(scene.image, spec)
        restored = pixels.transpose(1, 2, 0) * np.float32(spec.std) + np.float32(spec.mean)
        images[done] = np.clip(np.round(restored), 0, 255)
        inner = (box.inner_width, box.inner_height)
        small = cv2.resize(scene.labels, inner, interpolation=cv2.INTER_NEAREST_EXACT)
        labels[done, : inner[1], : inner[0]] = small
        done += 1
    counts = np.stack([(labels == c + 1).sum((1, 2)) for c in classes])
    return Pool(images, labels, {c: np.flatnonzero(counts[i] >= LEAST) for i, c in enumerate(classes)})


def normalise(images: np.ndarray, rng: np.random.Generator | None) -> Tensor:
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    if rng is not None:
        n = len(images)
        gain = rng.uniform(0.75, 1.25, (n, 3, 1, 1)) * rng.uniform(0.8, 1.2, (n, 1, 1, 1))
        x = (x * torch.from_numpy(gain).float()).clamp(0, 255)
    spec = InputSpec(CONFIG.input_size)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (spec.mean, spec.std))
    return (x - mean) / std


def draw(
    pool: Pool, batch: int, rng: np.random.Generator, augment: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Queries, their labels (0, 1, 255), supports, their masks, and the dense class labels of both."""
    usable = [c for c, held in pool.holders.items() if len(held) > 1]
    picked, classes = [], []
    for _ in range(batch):
        c = int(rng.choice(usable))
        picked.append(rng.choice(pool.holders[c], 2, replace=False))
        classes.append(c + 1)
    flat = np.array(picked).T.reshape(-1)  # queries, then supports
    images, labels = pool.images[flat], pool.labels[flat]
    if augment:
        images, labels = images.copy(), labels.copy()
        for i in range(len(flat)):
            turns, flip = int(rng.integers(4)), rng.random() < 0.5
            for array in (images, labels):
                array[i] = np.rot90(array[i], turns)
                if flip:
                    array[i] = array[i][:, ::-1]
    dense = torch.from_numpy(labels.astype(np.int64))
    wanted = torch.tensor(classes * 2)[:, None, None]
    binary = torch.where(dense == 255, 255, (dense == wanted).long())
    x = normalise(images, rng if augment else None)
    return x[:batch], binary[:batch], x[batch:], binary[batch:], dense


@torch.inference_mode()
def novel_miou(model: NTRENet, pool: Pool, episodes: int = 96) -> float:
    model.eval()
    rng = np.random.default_rng(0)
    joint: dict[int, np.ndarray] = {}
    for _ in range(episodes // 8):
        query, label, support, mask, dense = draw(pool, 8, rng, augment=False)
        logits = resize(model(query, support[:, None], mask[:, None]).logits, (161, 161))
        predicted = logits.argmax(1)
        for i in range(8):
            valid = label[i] != 255
            p, t = (predicted[i] == 1) & valid, label[i] == 1
            c = int(dense[8 + i][mask[i] == 1][0])
            joint.setdefault(c, np.zeros(2))
            joint[c] += [(p & t).sum().item(), (p | t).sum().item()]
    model.train()
    return float(np.mean([i / u for i, u in joint.values()]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=45.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--scenes", type=int, default=5000)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--dense-share", type=float, default=0.35, help="of the time, for the backbone alone")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    base = base_classes(len(CLASSES), args.fold, SPLIT)
    novel = novel_classes(len(CLASSES), args.fold, SPLIT)
    pool = render_pool(args.scenes, args.seed + 100, base, novel)
    held_out = render_pool(600, args.seed + 200, novel, ())
    model, _ = import_weights(f"random:{args.seed}", CONFIG)
    assert model.bgmm is not None
    nn.init.normal_(model.bgmm.prototype)
    dense_head = nn.Conv2d(model.backbone.channels[2], len(CLASSES) + 1, 1)
    parameters = [*model.parameters(), *dense_head.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=args.rate, weight_decay=1e-4)
    model.train()
    start, step = time.time(), 0
    while (done := (time.time() - start) / (60 * args.minutes)) < 1:
        # first the backbone learns to tell the base classes apart, then the head learns to use it
        dense_only = done < args.dense_share
        phase = done / args.dense_share if dense_only else (done - args.dense_share) / (1 - args.dense_share)
        rate = args.rate * min(1, (step + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * phase)))
        for group in optimiser.param_groups:
            group["lr"] = rate
        query, label, support, mask, dense = draw(pool, args.batch, rng, augment=True)
        if dense_only:
            _, f3 = model.backbone.lower(torch.cat([query, support]))
            loss = target_loss(dense_head(model.backbone.upper(f3)), dense)
        else:
            prediction = model(query, support[:, None], mask[:, None])
            loss = total_loss(prediction, label, mask[:, None])["total"]
            loss = loss + 0.5 * (1 - phase) * target_loss(dense_head(prediction.query.f4), dense[: args.batch])
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 2.0)
        optimiser.step()
        step += 1
        if step % 200 == 0:
            miou = 0.0 if dense_only else novel_miou(model, held_out)
            print(f"step {step} {done:.0%} loss {loss.item():.3f} novel mIoU {miou:.3f}", flush=True)
            save_checkpoint(args.out, model.eval(), origin(args, step, miou))
            model.train()
    save_checkpoint(args.out, model.eval(), origin(args, step, novel_miou(model, held_out, 480)))


def origin(args: argparse.Namespace, step: int, miou: float) -> dict[str, object]:
    return {
        "head": "trained",
        "backbone": "trained",
        "trained_by": "tools/train_demo.py",
        "dataset": f"procedural:{args.seed + 100}",
        "split": SPLIT,
        "fold": args.fold,
        "seed": args.seed,
        "steps": step,
        "batch": args.batch,
        "novel_miou_1shot_161px": round(miou, 4),
    }


if __name__ == "__main__":
    main()
