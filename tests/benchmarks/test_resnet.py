"""ResNets of CIFAR-10 with folded batch normalisation, against NumPy with it left where it was."""

import chex
import jax
import numpy as np
import pytest
from PIL import Image

from benchmarks.models import resnet
from jaxcomp.base import CorruptStream

WIDTHS = (4, 8, 16)
CLASSES = 5


def tiny_arrays() -> dict[str, np.ndarray]:
    """Two blocks, one and one, under the names of the published files."""
    generator = np.random.default_rng(0)
    arrays = {}

    def add(conv, norm, inputs, outputs):
        arrays[f"{conv}.weight"] = generator.normal(0, 0.2, (outputs, inputs, 3, 3))
        for key in ("weight", "running_var"):
            arrays[f"{norm}.{key}"] = generator.uniform(0.5, 2, outputs)
        for key in ("bias", "running_mean"):
            arrays[f"{norm}.{key}"] = generator.normal(0, 0.5, outputs)

    add("conv1", "bn1", 3, WIDTHS[0])
    width = WIDTHS[0]
    for stage, blocks in ((1, 2), (2, 1), (3, 1)):
        for i in range(blocks):
            name, outputs = f"layer{stage}.{i}", WIDTHS[stage - 1]
            add(f"{name}.conv1", f"{name}.bn1", width, outputs)
            add(f"{name}.conv2", f"{name}.bn2", outputs, outputs)
            width = outputs
    arrays["linear.weight"] = generator.normal(size=(CLASSES, WIDTHS[-1]))
    arrays["linear.bias"] = generator.normal(size=CLASSES)
    return {key: array.astype(np.float32) for key, array in arrays.items()}


def run(w: dict[str, np.ndarray], image: np.ndarray) -> np.ndarray:
    """Logits of one picture [h, w, 3], channels first, in float64."""

    def layer(x, conv, norm, stride=1):
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
        y = np.einsum("ihwyx,oiyx->ohw", windows, w[f"{conv}.weight"])[:, ::stride, ::stride]
        scale, bias, mean, variance = (
            w[f"{norm}.{key}"][:, None, None]
            for key in ("weight", "bias", "running_mean", "running_var")
        )
        return (y - mean) / np.sqrt(variance + 1e-5) * scale + bias

    x = np.maximum(layer(image.transpose(2, 0, 1).astype(float), "conv1", "bn1"), 0)
    for name, stride in (("layer1.0", 1), ("layer1.1", 1), ("layer2.0", 2), ("layer3.0", 2)):
        y = np.maximum(layer(x, f"{name}.conv1", f"{name}.bn1", stride), 0)
        y = layer(y, f"{name}.conv2", f"{name}.bn2")
        if stride == 2:  # a quarter of the new channels on either side, He et al.'s shortcut A
            zeros = np.zeros((len(y) // 4, *y.shape[1:]))
            x = np.concatenate([zeros, x[:, ::2, ::2], zeros])
        x = np.maximum(x + y, 0)
    return w["linear.weight"] @ x.mean((1, 2)) + w["linear.bias"]


def test_the_folded_model_is_the_unfolded_one(tmp_path):
    arrays = tiny_arrays()
    np.savez(tmp_path / "tiny.npz", **arrays)
    params = resnet.load(tmp_path / "tiny.npz")
    assert len(params["blocks"]) == 4
    assert params["blocks"][2]["first"]["weight"].shape == (3, 3, WIDTHS[0], WIDTHS[1])
    chex.clear_trace_counter()
    model = jax.jit(chex.assert_max_traces(lambda p, x: resnet.apply(p, x), n=1))
    for seed in range(2):
        images = np.random.default_rng(seed).normal(size=(2, 32, 32, 3)).astype(np.float32)
        expected = [run(arrays, image) for image in images]
        np.testing.assert_allclose(model(params, images), expected, rtol=1e-4, atol=1e-4)


def test_files_that_are_no_such_network_are_refused(tmp_path):
    arrays = tiny_arrays()
    path = tmp_path / "tiny.npz"
    np.savez(path, **arrays)
    whole = path.read_bytes()
    np.save(tmp_path / "one.npy", arrays["linear.bias"])
    one = (tmp_path / "one.npy").read_bytes()
    for wrong in (whole[:-50], whole[: len(whole) // 2], b"", b"no archive", one):
        path.write_bytes(wrong)
        with pytest.raises(CorruptStream, match="fetch"):
            resnet.load(path)
    for key, value in (
        ("layer2.0.bn1.running_var", None),
        ("layer3.0.conv1.weight", np.zeros((16, 7, 3, 3), np.float32)),
        ("linear.weight", np.zeros((CLASSES, 3), np.float32)),
    ):
        changed = {k: v for k, v in arrays.items() if k != key}
        np.savez(path, **changed, **({} if value is None else {key: value}))
        with pytest.raises(CorruptStream, match="expected"):
            resnet.load(path)


def test_rows_of_a_sheet_are_pictures(tmp_path):
    pictures = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    for i in range(2):
        rows = (pictures + np.uint8(i)).reshape(3, 1024, 3)
        Image.fromarray(rows).save(tmp_path / f"cifar10_batch_{i}.png")
    labels = tmp_path / "pseudo_labels_resnet56.txt"
    labels.write_text("\n".join("0123456789"))
    images, classes = resnet.cifar10(tmp_path)
    np.testing.assert_array_equal(images[3:], pictures + np.uint8(1))
    assert classes.tolist() == list(range(6)) and classes.dtype == np.int32
    white = resnet.normalise(np.full((1, 32, 32, 3), 255, np.uint8))
    assert white.dtype == np.float32
    np.testing.assert_allclose(white[0, 0, 0], [2.2489, 2.4286, 2.64], rtol=1e-4)
    for wrong in ("1\n2", "0\n1\n2\n3\n4\n01"):
        labels.write_text(wrong)
        with pytest.raises(CorruptStream, match="at least 6 classes"):
            resnet.cifar10(tmp_path)
    sheet = tmp_path / "cifar10_batch_0.png"
    sheet.write_bytes(sheet.read_bytes()[:-100])
    with pytest.raises(CorruptStream, match="whole PNG"):
        resnet.read_sheet(sheet)
    Image.fromarray(pictures[0]).save(sheet)
    with pytest.raises(CorruptStream, match="rows of 1024"):
        resnet.read_sheet(sheet)
