"""How probable integers are: models with init, bits, tables and index, and what trains them.

Names load on first use (PEP 562).
"""

from typing import TYPE_CHECKING

from jaxcomp.lazy import load_on_use

if TYPE_CHECKING:
    from .adapters import mapped as mapped
    from .adapters import rounded as rounded
    from .adapters import soft_rounded as soft_rounded
    from .bounds import lower_bound as lower_bound
    from .bounds import upper_bound as upper_bound
    from .categorical import categorical as categorical
    from .channelwise import channelwise as channelwise
    from .dither import dither as dither
    from .dither import dither_index as dither_index
    from .dither import dither_value as dither_value
    from .dither import universal_dequantise as universal_dequantise
    from .dither import universal_quantise as universal_quantise
    from .factorized import factorized as factorized
    from .factorized import factorized_log_mass as factorized_log_mass
    from .fourier import fourier as fourier
    from .fourier import fourier_log_mass as fourier_log_mass
    from .gaussian import gaussian as gaussian
    from .gaussian import gaussian_log_mass as gaussian_log_mass
    from .indexed import indexed as indexed
    from .interval import noisy_bits as noisy_bits
    from .interval import scaled as scaled
    from .laplace import laplace as laplace
    from .laplace import laplace_log_mass as laplace_log_mass
    from .location_scale import location_scale as location_scale
    from .location_scale import scale_index as scale_index
    from .location_scale import scale_table as scale_table
    from .logistic import logistic as logistic
    from .logistic import logistic_log_mass as logistic_log_mass
    from .mixture import mixed as mixed
    from .mixture import mixture as mixture
    from .noise import add_uniform_noise as add_uniform_noise
    from .perturb import perturb_and_apply as perturb_and_apply
    from .power_law import power_law as power_law
    from .power_law import power_law_log_mass as power_law_log_mass
    from .power_law import power_law_penalty as power_law_penalty
    from .rounding import dequantise as dequantise
    from .rounding import quantisation_offset as quantisation_offset
    from .rounding import quantise as quantise
    from .rounding import straight_through_round as straight_through_round
    from .shifted import shifted as shifted
    from .shifted import universal as universal
    from .soft_round import soft_round as soft_round
    from .soft_round import soft_round_conditional_mean as soft_round_conditional_mean
    from .soft_round import soft_round_inverse as soft_round_inverse
    from .sparse import sparse as sparse
    from .student_t import student_t as student_t
    from .student_t import student_t_log_mass as student_t_log_mass
    from .tails import find_tails as find_tails

load_on_use(
    __name__,
    {
        "adapters": ("mapped", "rounded", "soft_rounded"),
        "bounds": ("lower_bound", "upper_bound"),
        "categorical": ("categorical",),
        "channelwise": ("channelwise",),
        "dither": (
            "dither",
            "dither_index",
            "dither_value",
            "universal_dequantise",
            "universal_quantise",
        ),
        "factorized": ("factorized", "factorized_log_mass"),
        "fourier": ("fourier", "fourier_log_mass"),
        "gaussian": ("gaussian", "gaussian_log_mass"),
        "indexed": ("indexed",),
        "interval": ("noisy_bits", "scaled"),
        "laplace": ("laplace", "laplace_log_mass"),
        "location_scale": ("location_scale", "scale_index", "scale_table"),
        "logistic": ("logistic", "logistic_log_mass"),
        "mixture": ("mixed", "mixture"),
        "noise": ("add_uniform_noise",),
        "perturb": ("perturb_and_apply",),
        "power_law": ("power_law", "power_law_log_mass", "power_law_penalty"),
        "rounding": ("dequantise", "quantisation_offset", "quantise", "straight_through_round"),
        "shifted": ("shifted", "universal"),
        "soft_round": ("soft_round", "soft_round_conditional_mean", "soft_round_inverse"),
        "sparse": ("sparse",),
        "student_t": ("student_t", "student_t_log_mass"),
        "tails": ("find_tails",),
    },
)
