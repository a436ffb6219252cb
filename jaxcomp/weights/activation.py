"""activation: any method, with activations rounded where its weights are multiplied.

    x @ w -> round(x) @ w,   each row of x by its own scale, at the time

activation(rtn(INT8), "int8") is W8A8, whose products are of integers; formats/transformed.py says
where x is rounded for each kind of leaf: in the basis that the codes are in.
"""

from jaxcomp.base import Transform
from jaxcomp.formats.format import Format
from jaxcomp.formats.transformed import activation_format, activation_name, with_activation
from jaxcomp.weights.basis import as_method


def activation(method: Transform | Format, format: str | Format = "int8") -> Transform:
    """format: "int8", "int4", or a Format with a scale per row or per group."""
    method = as_method(method)
    activation_format(format)  # refused here rather than at the first weight

    def compress(w, statistics, axes):
        return with_activation(method.compress(w, statistics, axes), format)

    return Transform(compress, method.statistic, f"{method.name} x {activation_name(format)}")
