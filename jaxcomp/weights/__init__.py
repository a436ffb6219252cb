"""Weight compression, one method per file."""

from typing import TYPE_CHECKING

from jaxcomp.lazy import load_on_use

if TYPE_CHECKING:
    from jaxcomp.weights.activation import activation as activation
    from jaxcomp.weights.adaquant import adaquant as adaquant
    from jaxcomp.weights.allocate import allocate as allocate
    from jaxcomp.weights.aqlm import aqlm as aqlm
    from jaxcomp.weights.aqt import aqt as aqt
    from jaxcomp.weights.awq import awq as awq
    from jaxcomp.weights.awq import awq_folded as awq_folded
    from jaxcomp.weights.bias_tuning import bias_tuning as bias_tuning
    from jaxcomp.weights.choices import alone as alone
    from jaxcomp.weights.choices import assemble as assemble
    from jaxcomp.weights.choices import choices as choices
    from jaxcomp.weights.choices import plan_of as plan_of
    from jaxcomp.weights.compress import compress as compress
    from jaxcomp.weights.distil import distil as distil
    from jaxcomp.weights.double_rounding import at_bits as at_bits
    from jaxcomp.weights.double_rounding import double_rounding as double_rounding
    from jaxcomp.weights.entropy_constrained import entropy_constrained as entropy_constrained
    from jaxcomp.weights.eora import eora as eora
    from jaxcomp.weights.evopress import evopress as evopress
    from jaxcomp.weights.gptq import gptq as gptq
    from jaxcomp.weights.hadamard import hadamard as hadamard
    from jaxcomp.weights.hqq import hqq as hqq
    from jaxcomp.weights.jlcm import jlcm as jlcm
    from jaxcomp.weights.l2 import counted_bits as counted_bits
    from jaxcomp.weights.l2 import l2 as l2
    from jaxcomp.weights.llm_fp4 import llm_fp4 as llm_fp4
    from jaxcomp.weights.lorc import lorc as lorc
    from jaxcomp.weights.lossless import lossless as lossless
    from jaxcomp.weights.lsq import lsq as lsq
    from jaxcomp.weights.nupes import nupes as nupes
    from jaxcomp.weights.olive import olive as olive
    from jaxcomp.weights.ostquant import ostquant as ostquant
    from jaxcomp.weights.paretoq import paretoq as paretoq
    from jaxcomp.weights.power import power as power
    from jaxcomp.weights.progressive import progressive as progressive
    from jaxcomp.weights.progressive import to_int8 as to_int8
    from jaxcomp.weights.pv_tuning import pv_tuning as pv_tuning
    from jaxcomp.weights.rex import rex as rex
    from jaxcomp.weights.rtn import rtn as rtn
    from jaxcomp.weights.smoothquant import smoothquant as smoothquant
    from jaxcomp.weights.smoothquant import smoothquant_folded as smoothquant_folded
    from jaxcomp.weights.spqr import SPQR2 as SPQR2
    from jaxcomp.weights.spqr import SPQR3 as SPQR3
    from jaxcomp.weights.spqr import SPQR4 as SPQR4
    from jaxcomp.weights.spqr import spqr as spqr
    from jaxcomp.weights.statistics import both as both
    from jaxcomp.weights.statistics import max_magnitude as max_magnitude
    from jaxcomp.weights.statistics import mean_magnitude as mean_magnitude
    from jaxcomp.weights.statistics import second_moment as second_moment
    from jaxcomp.weights.train_widths import train_widths as train_widths

load_on_use(
    __name__,
    {
        "activation": ("activation",),
        "adaquant": ("adaquant",),
        "allocate": ("allocate",),
        "awq": ("awq", "awq_folded"),
        "bias_tuning": ("bias_tuning",),
        "choices": ("alone", "assemble", "choices", "plan_of"),
        "aqlm": ("aqlm",),
        "aqt": ("aqt",),
        "compress": ("compress",),
        "distil": ("distil",),
        "double_rounding": ("at_bits", "double_rounding"),
        "eora": ("eora",),
        "entropy_constrained": ("entropy_constrained",),
        "evopress": ("evopress",),
        "gptq": ("gptq",),
        "hadamard": ("hadamard",),
        "hqq": ("hqq",),
        "jlcm": ("jlcm",),
        "l2": ("counted_bits", "l2"),
        "llm_fp4": ("llm_fp4",),
        "lorc": ("lorc",),
        "lossless": ("lossless",),
        "lsq": ("lsq",),
        "nupes": ("nupes",),
        "olive": ("olive",),
        "ostquant": ("ostquant",),
        "paretoq": ("paretoq",),
        "power": ("power",),
        "progressive": ("progressive", "to_int8"),
        "pv_tuning": ("pv_tuning",),
        "rex": ("rex",),
        "rtn": ("rtn",),
        "smoothquant": ("smoothquant", "smoothquant_folded"),
        "spqr": ("SPQR2", "SPQR3", "SPQR4", "spqr"),
        "statistics": ("both", "max_magnitude", "mean_magnitude", "second_moment"),
        "train_widths": ("train_widths",),
    },
)
