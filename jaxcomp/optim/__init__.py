"""Training in few bytes: what senders tell each other, and what optimizers keep."""

from typing import TYPE_CHECKING

from jaxcomp.lazy import load_on_use

if TYPE_CHECKING:
    from jaxcomp.optim.across import across as across
    from jaxcomp.optim.adam4bit import adam4bit as adam4bit
    from jaxcomp.optim.adam8bit import adam8bit as adam8bit
    from jaxcomp.optim.adam8bit import scale_by_adam8bit as scale_by_adam8bit
    from jaxcomp.optim.all_gather import all_gather as all_gather
    from jaxcomp.optim.compressed import compressed as compressed
    from jaxcomp.optim.compressed_mean import compressed_mean as compressed_mean
    from jaxcomp.optim.compressed_mean import dense_mean as dense_mean
    from jaxcomp.optim.count_sketch import count_sketch as count_sketch
    from jaxcomp.optim.dgc import dgc as dgc
    from jaxcomp.optim.drive import drive as drive
    from jaxcomp.optim.econtrol import econtrol as econtrol
    from jaxcomp.optim.ef21 import ef21 as ef21
    from jaxcomp.optim.ef21_momentum import ef21_momentum as ef21_momentum
    from jaxcomp.optim.ef21_w import ef21_step_size as ef21_step_size
    from jaxcomp.optim.ef21_w import ef21_w as ef21_w
    from jaxcomp.optim.encode_wire import decode_wire as decode_wire
    from jaxcomp.optim.encode_wire import encode_wire as encode_wire
    from jaxcomp.optim.error_feedback import error_feedback as error_feedback
    from jaxcomp.optim.fetch_sgd import fetch_sgd as fetch_sgd
    from jaxcomp.optim.frugal import frugal as frugal
    from jaxcomp.optim.gathered import gathered as gathered
    from jaxcomp.optim.hierarchical import hierarchical as hierarchical
    from jaxcomp.optim.identity import identity as identity
    from jaxcomp.optim.lion8bit import lion8bit as lion8bit
    from jaxcomp.optim.moments import state_shardings as state_shardings
    from jaxcomp.optim.momentum8bit import momentum8bit as momentum8bit
    from jaxcomp.optim.natural import natural as natural
    from jaxcomp.optim.one_bit_adam import one_bit_adam as one_bit_adam
    from jaxcomp.optim.outer import outer as outer
    from jaxcomp.optim.own_params import own_params as own_params
    from jaxcomp.optim.power_sgd import power_sgd as power_sgd
    from jaxcomp.optim.privacy_epsilon import privacy_epsilon as privacy_epsilon
    from jaxcomp.optim.private_mean import private_mean as private_mean
    from jaxcomp.optim.projectors import by_blocks as by_blocks
    from jaxcomp.optim.projectors import by_columns as by_columns
    from jaxcomp.optim.projectors import by_coordinates as by_coordinates
    from jaxcomp.optim.projectors import by_svd as by_svd
    from jaxcomp.optim.qsgd import qsgd as qsgd
    from jaxcomp.optim.quantized import quantized as quantized
    from jaxcomp.optim.random import fold as fold
    from jaxcomp.optim.random_k import random_k as random_k
    from jaxcomp.optim.reduce_scatter import reduce_scatter as reduce_scatter
    from jaxcomp.optim.report import report as report
    from jaxcomp.optim.scafcom import scafcom as scafcom
    from jaxcomp.optim.scallion import scallion as scallion
    from jaxcomp.optim.senders import PerSender as PerSender
    from jaxcomp.optim.senders import init as init
    from jaxcomp.optim.senders import on_senders as on_senders
    from jaxcomp.optim.senders import shapes as shapes
    from jaxcomp.optim.senders import specs as specs
    from jaxcomp.optim.sharded import init_sharded as init_sharded
    from jaxcomp.optim.sharded import on_sharded as on_sharded
    from jaxcomp.optim.sign import sign as sign
    from jaxcomp.optim.srht import srht as srht
    from jaxcomp.optim.stochastic_rounding import stochastic_rounding as stochastic_rounding
    from jaxcomp.optim.summed import summed as summed
    from jaxcomp.optim.terngrad import terngrad as terngrad
    from jaxcomp.optim.top_k import top_k as top_k
    from jaxcomp.optim.traffic import traffic as traffic
    from jaxcomp.optim.wire import wire_nbytes as wire_nbytes
    from jaxcomp.optim.zero_one_adam import zero_one_adam as zero_one_adam

load_on_use(
    __name__,
    {
        "across": ("across",),
        "adam4bit": ("adam4bit",),
        "adam8bit": ("adam8bit", "scale_by_adam8bit"),
        "all_gather": ("all_gather",),
        "compressed": ("compressed",),
        "compressed_mean": ("compressed_mean", "dense_mean"),
        "count_sketch": ("count_sketch",),
        "dgc": ("dgc",),
        "drive": ("drive",),
        "econtrol": ("econtrol",),
        "ef21": ("ef21",),
        "ef21_momentum": ("ef21_momentum",),
        "ef21_w": ("ef21_step_size", "ef21_w"),
        "encode_wire": ("decode_wire", "encode_wire"),
        "error_feedback": ("error_feedback",),
        "fetch_sgd": ("fetch_sgd",),
        "frugal": ("frugal",),
        "gathered": ("gathered",),
        "hierarchical": ("hierarchical",),
        "identity": ("identity",),
        "lion8bit": ("lion8bit",),
        "moments": ("state_shardings",),
        "momentum8bit": ("momentum8bit",),
        "natural": ("natural",),
        "one_bit_adam": ("one_bit_adam",),
        "outer": ("outer",),
        "own_params": ("own_params",),
        "power_sgd": ("power_sgd",),
        "privacy_epsilon": ("privacy_epsilon",),
        "private_mean": ("private_mean",),
        "projectors": ("by_blocks", "by_columns", "by_coordinates", "by_svd"),
        "qsgd": ("qsgd",),
        "quantized": ("quantized",),
        "random": ("fold",),
        "random_k": ("random_k",),
        "reduce_scatter": ("reduce_scatter",),
        "report": ("report",),
        "scafcom": ("scafcom",),
        "scallion": ("scallion",),
        "senders": ("PerSender", "init", "on_senders", "shapes", "specs"),
        "sharded": ("init_sharded", "on_sharded"),
        "sign": ("sign",),
        "srht": ("srht",),
        "stochastic_rounding": ("stochastic_rounding",),
        "summed": ("summed",),
        "terngrad": ("terngrad",),
        "top_k": ("top_k",),
        "traffic": ("traffic",),
        "wire": ("wire_nbytes",),
        "zero_one_adam": ("zero_one_adam",),
    },
)
