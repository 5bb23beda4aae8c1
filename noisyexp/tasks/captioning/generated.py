"""A stand-in for Flickr8k without files: coloured things on a grid, and sentences that name them.

A location with a thing holds its kind, its colour and where it is; all others only where they are.
A caption names the things row by row, in one of four ways of saying it, drawn evenly: the best
possible model therefore needs ln 4 nats a caption. The mean over locations says which kinds and
colours there are, but neither what has which colour nor the order: a model that looks everywhere
evenly has to guess both.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from noisyexp.activations import derive_seed
from noisyexp.data.flickr8k import PER_IMAGE
from noisyexp.tasks.captioning.data import CaptionData, Captions, build_vocabulary, encode

SIDE = 4
KINDS = ("dog", "cat", "ball", "car", "child", "bird")
COLOURS = ("red", "blue", "green", "white")
CHANNELS = len(KINDS) + len(COLOURS) + 2 * SIDE
WAYS = 4
FLOOR_NATS = math.log(WAYS)
THINGS = (2, 3)
"""Fewest and most things of an image."""


def sentence(things: list[str], way: int) -> str:
    """Name `things` in one of `WAYS` ways."""
    if way == 2:
        return "one " + " near one ".join(things) + " ."
    return ("a ", "there is a ", "", "look at a ")[way] + " and a ".join(things) + " ."


def draw_image(generator: torch.Generator) -> tuple[Tensor, list[str]]:
    """Annotations of an image, (SIDE * SIDE, CHANNELS), and its things in reading order."""
    low, high = THINGS
    count = int(torch.randint(low, high + 1, (), generator=generator))
    places = torch.randperm(SIDE * SIDE, generator=generator)[:count].sort().values.tolist()
    values = torch.zeros(SIDE, SIDE, CHANNELS)
    for k in range(SIDE):
        values[k, :, len(KINDS) + len(COLOURS) + k] = 1.0
        values[:, k, len(KINDS) + len(COLOURS) + SIDE + k] = 1.0
    values = values.view(SIDE * SIDE, CHANNELS)
    things = []
    for place in places:
        kind = int(torch.randint(len(KINDS), (), generator=generator))
        colour = int(torch.randint(len(COLOURS), (), generator=generator))
        values[place, kind] = values[place, len(KINDS) + colour] = 1.0
        things.append(f"{COLOURS[colour]} {KINDS[kind]}")
    return values + 0.1 * torch.rand(values.shape, generator=generator), things


def generate(train: int, held_out: int) -> CaptionData:
    """`train` training images, `held_out` of each other split; the same for every seed."""
    maps: list[Tensor] = []
    texts: dict[str, list[list[str]]] = {}
    names: dict[str, list[str]] = {}
    rows: dict[str, list[int]] = {}
    for split, images in (("train", train), ("valid", held_out), ("test", held_out)):
        generator = torch.Generator().manual_seed(derive_seed("captioning", split))
        texts[split], names[split], rows[split] = [], [], []
        for image in range(images):
            values, things = draw_image(generator)
            for way in torch.randint(WAYS, (PER_IMAGE,), generator=generator).tolist():
                texts[split].append(sentence(things, way).split())
                names[split].append(f"{split}{image}")
                rows[split].append(len(maps))
            maps.append(values)
    annotations = torch.stack(maps)
    vocab = build_vocabulary([caption for split in texts.values() for caption in split])
    splits: dict[str, Captions] = {
        split: encode(texts[split], names[split], rows[split], vocab) for split in texts
    }
    return CaptionData(
        splits, vocab, lambda which: annotations[which], SIDE, CHANNELS, {}, {"extractor": "none"}
    )
