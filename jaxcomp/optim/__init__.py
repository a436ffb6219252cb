"""Gradients in few bytes: compressors of what is sent, and error feedback around them."""

from typing import TYPE_CHECKING

from jaxcomp.lazy import load_on_use

if TYPE_CHECKING:
    from jaxcomp.optim.compressed import compressed as compressed
    from jaxcomp.optim.compressed_mean import compressed_mean as compressed_mean
    from jaxcomp.optim.compressed_mean import dense_mean as dense_mean
    from jaxcomp.optim.drive import drive as drive
    from jaxcomp.optim.ef21 import ef21 as ef21
    from jaxcomp.optim.error_feedback import error_feedback as error_feedback
    from jaxcomp.optim.gathered import gathered as gathered
    from jaxcomp.optim.hierarchical import hierarchical as hierarchical
    from jaxcomp.optim.identity import identity as identity
    from jaxcomp.optim.natural import natural as natural
    from jaxcomp.optim.power_sgd import power_sgd as power_sgd
    from jaxcomp.optim.qsgd import qsgd as qsgd
    from jaxcomp.optim.quantized import quantized as quantized
    from jaxcomp.optim.random import fold as fold
    from jaxcomp.optim.random_k import random_k as random_k
    from jaxcomp.optim.report import report as report
    from jaxcomp.optim.senders import PerSender as PerSender
    from jaxcomp.optim.senders import across as across
    from jaxcomp.optim.senders import init as init
    from jaxcomp.optim.senders import on_senders as on_senders
    from jaxcomp.optim.senders import shapes as shapes
    from jaxcomp.optim.senders import specs as specs
    from jaxcomp.optim.sign import sign as sign
    from jaxcomp.optim.terngrad import terngrad as terngrad
    from jaxcomp.optim.top_k import top_k as top_k
    from jaxcomp.optim.wire import wire_nbytes as wire_nbytes

load_on_use(
    __name__,
    {
        "compressed": ("compressed",),
        "compressed_mean": ("compressed_mean", "dense_mean"),
        "drive": ("drive",),
        "ef21": ("ef21",),
        "error_feedback": ("error_feedback",),
        "gathered": ("gathered",),
        "hierarchical": ("hierarchical",),
        "identity": ("identity",),
        "natural": ("natural",),
        "power_sgd": ("power_sgd",),
        "qsgd": ("qsgd",),
        "quantized": ("quantized",),
        "random": ("fold",),
        "random_k": ("random_k",),
        "report": ("report",),
        "senders": ("PerSender", "across", "init", "on_senders", "shapes", "specs"),
        "sign": ("sign",),
        "terngrad": ("terngrad",),
        "top_k": ("top_k",),
        "wire": ("wire_nbytes",),
    },
)
