"""Entropy models: masses, bits, tails, offsets, quantised tables and strings."""

import numpy as np
import tensorflow as tf
import tensorflow_compression as tfc
import tensorflow_probability as tfp
from tensorflow_compression.python.entropy_models.laplace import LaplaceEntropyModel

TAIL_MASS = 2**-8  # the library's default
PRECISION = 12  # also
LEVELS = 5  # of the dither; the library's default, 15, only makes the file larger


def double(value):
    return tf.constant(value, tf.float64)


def describe(out, name, prior, x):
    """What a noisy distribution says at x, and the tables and strings that follow from it."""
    out[f"{name}/x"] = x
    out[f"{name}/prob"] = prior.prob(x)
    out[f"{name}/bits"] = prior.log_prob(x) / -np.log(2.0)
    out[f"{name}/lower_tail"] = tfc.lower_tail(prior, TAIL_MASS)
    out[f"{name}/upper_tail"] = tfc.upper_tail(prior, TAIL_MASS)
    out[f"{name}/quantization_offset"] = tfc.quantization_offset(prior)
    shape = tuple(prior.batch_shape)
    model = tfc.ContinuousBatchedEntropyModel(
        prior, coding_rank=1 + len(shape), compression=True, bottleneck_dtype=tf.float64
    )
    out[f"{name}/cdf"], out[f"{name}/cdf_offset"] = model.cdf, model.cdf_offset
    rng = np.random.default_rng(5)
    y = double(rng.normal(0.0, 3.0, (40, *shape)))
    quantized, bits = model(y, training=False)
    out[f"{name}/y"], out[f"{name}/y_hat"], out[f"{name}/y_bits"] = y, quantized, bits
    out[f"{name}/string"] = model.compress(y)
    decoded = model.decompress(model.compress(y), (40,)).numpy()
    if not np.array_equal(decoded, quantized.numpy()):
        raise ValueError(f"{name}: decompress differs from quantize")


def deep_factorized(cls, seed, **options):
    """A prior whose weights have left their initial values, and those weights."""
    rng = np.random.default_rng(seed)
    prior = cls(batch_shape=(4,), dtype=tf.float64, **options)
    base = prior
    while not isinstance(base, tfc.DeepFactorized):
        base = base.base
    weights = {}
    for kind in ("matrices", "biases", "factors"):
        for layer, variable in enumerate(getattr(base, f"_{kind}")):
            shift = rng.normal(0.0, 0.5, variable.shape)
            start = variable if kind == "matrices" else 0.0
            # Float32 values, so that ours are the same weights.
            variable.assign(np.float32(start + shift).astype(np.float64))
            weights[f"{kind}_{layer}"] = np.float32(variable.numpy())
    return prior, weights


def distributions(out):
    x = double(np.linspace(-12.0, 12.0, 49)[:, None])
    for name, cls, seed, options in (
        ("deep_factorized", tfc.NoisyDeepFactorized, 2, {"init_scale": 1.0}),
        ("deep_factorized_deep", tfc.NoisyDeepFactorized, 3, {"num_filters": (3, 2, 4)}),
        ("rounded_deep_factorized", tfc.NoisyRoundedDeepFactorized, 4, {}),
        (
            "soft_rounded_deep_factorized",
            tfc.NoisySoftRoundedDeepFactorized,
            5,
            {"alpha": double(3.0)},
        ),
    ):
        prior, weights = deep_factorized(cls, seed, **options)
        out.update({f"{name}/{key}": value for key, value in weights.items()})
        describe(out, name, prior, x)
    loc, scale = np.array([0.0, 0.3, -2.75, 1.5]), np.array([0.05, 0.6, 2.0, 9.0])
    families = {
        "normal": (tfc.NoisyNormal, {}),
        "laplace": (tfc.NoisyLaplace, {}),
        "logistic": (tfc.NoisyLogistic, {}),
        "rounded_normal": (tfc.NoisyRoundedNormal, {}),
        "soft_rounded_normal": (tfc.NoisySoftRoundedNormal, {"alpha": double(5.0)}),
    }
    for name, (cls, options) in families.items():
        out[f"{name}/loc"], out[f"{name}/scale"] = loc, scale
        describe(out, name, cls(loc=double(loc), scale=double(scale), **options), x)
    student = tfp.distributions.StudentT(df=double(4.0), loc=double(loc), scale=double(scale))
    out["student_t/loc"], out["student_t/scale"], out["student_t/df"] = loc, scale, 4.0
    noisy = tfc.UniformNoiseAdapter(student)
    out["student_t/x"], out["student_t/prob"] = x, noisy.prob(x)
    locs = np.array([[-2.0, 2.5], [0.0, 0.2], [-6.0, 5.0]])
    scales = np.array([[0.5, 1.5], [0.2, 4.0], [1.0, 1.0]])
    weight = np.array([[0.3, 0.7], [0.8, 0.2], [0.5, 0.5]])
    for name, cls in (
        ("normal_mixture", tfc.NoisyNormalMixture),
        ("logistic_mixture", tfc.NoisyLogisticMixture),
    ):
        out.update({f"{name}/loc": locs, f"{name}/scale": scales, f"{name}/weight": weight})
        describe(out, name, cls(loc=double(locs), scale=double(scales), weight=double(weight)), x)


def indexed(out):
    """Tables chosen by an index: location-scale families, and a mixture with three indices."""
    rng = np.random.default_rng(6)
    scales = np.exp(np.linspace(np.log(0.11), np.log(24.0), 16))
    index = rng.integers(0, 16, (3, 60))
    loc = rng.normal(0.0, 4.0, (3, 60))
    y = loc + rng.standard_t(3, (3, 60)) * scales[index]
    out.update({f"location_scale/{k}": v for k, v in dict(y=y, index=index, loc=loc).items()})
    out["location_scale/scales"] = scales
    for name, prior in (
        ("normal", tfc.NoisyNormal),
        ("laplace", tfc.NoisyLaplace),
        ("logistic", tfc.NoisyLogistic),
    ):
        model = tfc.LocationScaleIndexedEntropyModel(
            prior,
            16,
            lambda i: tf.gather(double(scales), tf.cast(i, tf.int32)),
            coding_rank=1,
            compression=True,
            bottleneck_dtype=tf.float64,
            prior_dtype=tf.float64,
        )
        y_hat, bits = model(double(y), double(index), double(loc), training=False)
        case = f"location_scale_{name}"
        out[f"{case}/y_hat"], out[f"{case}/bits"] = y_hat, bits
        out[f"{case}/cdf"], out[f"{case}/cdf_offset"] = model.cdf, model.cdf_offset
        for line, string in enumerate(model.compress(double(y), index, double(loc)).numpy()):
            out[f"{case}/string_{line}"] = string
        tail = tfc.LocationScaleIndexedEntropyModel(
            prior,
            16,
            lambda i: tf.gather(double(scales), tf.cast(i, tf.int32)),
            coding_rank=0,
            bottleneck_dtype=tf.float64,
            prior_dtype=tf.float64,
            laplace_tail_mass=double(2**-10),
        )
        out[f"{case}/tail_bits"] = tail(double(y), double(index), double(loc), training=False)[1]
    ranges = (4, 3, 2)
    model = tfc.ContinuousIndexedEntropyModel(
        tfc.NoisyLogisticMixture,
        ranges,
        {
            "loc": lambda i: i[..., 0:2] * 2 - 3,
            "scale": lambda _: double(0.7),
            "weight": lambda i: tf.nn.softmax((i[..., 2:3] - 0.5) * double([-1.0, 1.0])),
        },
        coding_rank=1,
        compression=True,
        bottleneck_dtype=tf.float64,
        prior_dtype=tf.float64,
    )
    index = np.stack([rng.integers(0, r, 80) for r in ranges], -1)
    y = rng.normal(0.0, 3.0, 80)
    y_hat, bits = model(double(y), double(index), training=False)
    case = "indexed_logistic_mixture"
    out.update(
        {f"{case}/y": y, f"{case}/index": index, f"{case}/y_hat": y_hat, f"{case}/bits": bits}
    )
    out[f"{case}/cdf"], out[f"{case}/cdf_offset"] = model.cdf, model.cdf_offset
    out[f"{case}/string"] = model.compress(double(y), index)


def universal(out):
    """Dithered quantisation. The dither is TensorFlow's own and fixed by the shape: read it off."""
    rng = np.random.default_rng(7)
    loc, scale = np.array([0.0, 0.4, -1.3]), np.array([0.3, 1.0, 4.0])
    y = double(rng.normal(0.0, 3.0, (50, 3)))
    case = "universal_batched"
    model = tfc.UniversalBatchedEntropyModel(
        tfc.NoisyNormal(loc=double(loc), scale=double(scale)),
        coding_rank=2,
        compression=True,
        bottleneck_dtype=tf.float64,
        num_noise_levels=LEVELS,
    )
    y_hat, bits = model(y, training=False)
    index, offset = model._compute_indexes_and_offset((50,))
    out.update({f"{case}/loc": loc, f"{case}/scale": scale, f"{case}/y": y})
    out.update({f"{case}/y_hat": y_hat, f"{case}/bits": bits, f"{case}/row": index})
    out.update({f"{case}/offset": offset, f"{case}/cdf": model.cdf})
    out.update({f"{case}/cdf_offset": model.cdf_offset, f"{case}/string": model.compress(y)})
    case = "universal_indexed"
    scales = np.array([0.2, 0.9, 3.0])
    model = tfc.UniversalIndexedEntropyModel(
        tfc.NoisyNormal,
        (3,),
        {
            "loc": lambda _: double(0.0),
            "scale": lambda i: tf.gather(double(scales), tf.cast(i[..., 0], tf.int32)),
        },
        coding_rank=1,
        compression=True,
        bottleneck_dtype=tf.float64,
        prior_dtype=tf.float64,
        num_noise_levels=LEVELS,
    )
    y, index = double(rng.normal(0.0, 2.0, 60)), rng.integers(0, 3, (60, 1))
    y_hat, bits = model(y, double(index), training=False)
    out.update({f"{case}/scales": scales, f"{case}/y": y, f"{case}/index": index})
    out.update({f"{case}/y_hat": y_hat, f"{case}/bits": bits, f"{case}/cdf": model.cdf})
    out[f"{case}/cdf_offset"] = model.cdf_offset
    out[f"{case}/string"] = model.compress(y, tf.constant(index, tf.int32))


def sparse(out):
    """Power-law and Laplace models: a penalty, and run-length strings of their own."""
    rng = np.random.default_rng(8)
    y = np.where(rng.random((4, 70)) < 0.7, 0.0, rng.standard_cauchy((4, 70)) * 3)
    power = tfc.PowerLawEntropyModel(coding_rank=1, alpha=0.01, bottleneck_dtype=tf.float64)
    laplace = LaplaceEntropyModel(coding_rank=1, l1=0.02, bottleneck_dtype=tf.float64)
    out["power_law/y"], out["power_law/alpha"] = y, 0.01
    out["power_law/y_hat"], out["power_law/penalty"] = power(double(y))
    out["laplace_l1/y"], out["laplace_l1/l1"] = y, 0.02
    out["laplace_l1/y_hat"], out["laplace_l1/penalty"] = laplace(double(y))
    for name, model in (("power_law", power), ("laplace_l1", laplace)):
        for line, string in enumerate(model.compress(double(y)).numpy()):
            out[f"{name}/string_{line}"] = string
    symbols = np.round(y[0]).astype(np.int32)
    symbols[:3] = 0, -(2**31) + 1, 2**31 - 1
    for case, (run, magnitude, both) in enumerate(((-1, -1, False), (2, -1, True), (-1, 27, True))):
        out[f"run_length_{case}/options"] = [run, magnitude, both]
        out[f"run_length_{case}/symbols"] = symbols
        out[f"run_length_{case}/string"] = tfc.run_length_encode(
            symbols,
            run_length_code=run,
            magnitude_code=magnitude,
            use_run_length_for_non_zeros=both,
        )


def models():
    out = {"tail_mass": TAIL_MASS, "precision": PRECISION, "levels": LEVELS}
    distributions(out)
    indexed(out)
    universal(out)
    sparse(out)
    pmf = np.random.default_rng(9).dirichlet(np.full(50, 0.2), 6).astype(np.float32)
    for precision in (8, 12, 16):
        cdf = tfc.pmf_to_quantized_cdf(pmf, precision=precision)
        out[f"pmf_to_quantized_cdf/{precision}"] = cdf
    out["pmf_to_quantized_cdf/pmf"] = pmf
    return out
