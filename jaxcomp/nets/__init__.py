"""Layers that codecs share, in flax.linen, and their exact integer twins.

Modules load on first use (PEP 562).
"""

from typing import TYPE_CHECKING

from jaxcomp.lazy import load_on_use

if TYPE_CHECKING:
    from jaxcomp.nets import fixed_point as fixed_point
    from jaxcomp.nets import gain as gain
    from jaxcomp.nets import gdn as gdn
    from jaxcomp.nets import integer as integer
    from jaxcomp.nets import macs as macs
    from jaxcomp.nets import resample as resample
    from jaxcomp.nets import residual as residual
    from jaxcomp.nets import window_attention as window_attention

load_on_use(
    __name__,
    {
        "fixed_point": (),
        "gain": (),
        "gdn": (),
        "integer": (),
        "macs": (),
        "resample": (),
        "residual": (),
        "window_attention": (),
    },
)
