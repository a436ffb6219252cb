"""GDN, its parameters, convolutions with their padding, initial values."""

import numpy as np
import tensorflow as tf
import tensorflow_compression as tfc


def layers():
    rng = np.random.default_rng(11)
    out = {}
    x = np.float32(rng.normal(0.0, 2.0, (2, 5, 6, 4)))
    beta, gamma = np.float32(rng.uniform(0.2, 2.0, 4)), np.float32(rng.uniform(0.0, 0.5, (4, 4)))
    out.update({"gdn/x": x, "gdn/beta": beta, "gdn/gamma": gamma})
    for name, options in {
        "simplified": {},
        "classic": {"alpha_parameter": 2, "epsilon_parameter": 0.5},
        "rectified": {"rectify": True},
    }.items():
        for inverse in (False, True):
            layer = tfc.GDN(inverse=inverse, beta_parameter=beta, gamma_parameter=gamma, **options)
            out[f"gdn/{name}{'_inverse' if inverse else ''}"] = layer(x)
    start = np.float32([0.0, 1e-6, 0.1, 2.0])
    parameter = tfc.GDNParameter(start, minimum=1e-6)
    out["gdn_parameter/start"], out["gdn_parameter/value"] = start, parameter()
    out["gdn_parameter/variable"] = parameter.variable
    out["gdn/default_gamma"] = tf.keras.initializers.Identity(0.1)((4, 4))
    kernel = np.float32(rng.normal(0.0, 0.3, (5, 5, 4, 3)))
    out["signal_conv/x"], out["signal_conv/kernel"] = x, kernel
    out["rdft/real"] = (parameter := tfc.RDFTParameter(kernel)).real
    out["rdft/imag"], out["rdft/kernel"] = parameter.imag, parameter()
    for name, options in {
        "down_zeros": {"corr": True, "strides_down": 2, "padding": "same_zeros"},
        "down_reflect": {"corr": True, "strides_down": 2, "padding": "same_reflect"},
        "up_zeros": {"corr": False, "strides_up": 2, "padding": "same_zeros"},
        "up_reflect": {"corr": False, "strides_up": 2, "padding": "same_reflect"},
        "valid": {"corr": True, "padding": "valid"},
        "convolution": {"corr": False, "padding": "same_zeros"},
    }.items():
        layer = tfc.SignalConv2D(3, 5, kernel_parameter=kernel, use_bias=False, **options)
        out[f"signal_conv/{name}"] = layer(x)
    for corr in (True, False):
        for up in (1, 2, 3):
            sizes = [tfc.same_padding_for_kernel((n,), corr, (up,))[0] for n in range(1, 8)]
            out[f"same_padding/{'corr' if corr else 'conv'}_{up}"] = sizes
    out["identity_initializer/5x4"] = tfc.IdentityInitializer(0.5)((5, 4, 3, 3), tf.float32)
    return out
