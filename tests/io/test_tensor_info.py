"""What arrays take, beside the entropy of their bytes."""

import io

import ml_dtypes
import numpy as np

import jaxcomp as jc


def test_order_0_entropies_are_those_of_the_definition():
    draw = np.random.default_rng(0)
    tree = {
        "bytes": draw.integers(0, 5, 4000, np.uint8),
        "f32": draw.normal(size=(50, 80)).astype(np.float32),
        "bf16": draw.normal(size=4000).astype(ml_dtypes.bfloat16),
        "f64": draw.normal(size=1000),
        "empty": np.zeros(0, np.int16),
        "same": np.full(500, 7, np.int64),
    }
    file = io.BytesIO()
    jc.io.save_tensors(file, tree, chunk_nbytes=4096)
    with jc.io.open_tensors(file) as opened:
        seen = []
        infos = {info.name: info for info in jc.io.array_infos(opened, progress=seen.append)}
        assert sum(seen) == sum(x.nbytes for x in tree.values())
        quick = jc.io.array_infos(opened, entropy=False)
    assert all(info.order0_nbytes is None for info in quick)
    assert sum(info.coded_nbytes for info in quick) < len(file.getvalue())

    def entropy(plane):
        share = np.bincount(plane) / plane.size
        return -(share[share > 0] * np.log2(share[share > 0])).sum() * plane.size / 8

    for name, x in tree.items():
        whole = x.reshape(-1).view(f"u{x.itemsize}").astype(np.uint64)
        if x.dtype.kind not in "iu":
            top = 8 * x.itemsize - 1
            whole = (whole << np.uint64(1) | whole >> np.uint64(top)) & np.uint64(
                2 ** (top + 1) - 1
            )
        places = [
            (whole >> np.uint64(8 * i) & np.uint64(255)).astype(np.int64) for i in range(x.itemsize)
        ]
        expected = sum(map(entropy, places)) if x.size else 0
        assert abs(infos[name].order0_nbytes - expected) < 1e-6 * (1 + expected), name
        assert (infos[name].nbytes, infos[name].shape) == (x.nbytes, x.shape)
    # Of weights near a Gaussian the exponent takes 2.5 bits of 8, and all else is noise.
    assert 0.64 < infos["bf16"].order0_nbytes / infos["bf16"].nbytes < 0.67
