"""jaxcomp compresses what a JAX program holds: transform, quantize, entropy-code, under jit.

    import jaxcomp as jc

    codec = jc.codecs.learned()
    data = jc.codecs.save(codec, image, quality=50)
    image = jc.codecs.load(data)

    stats = jc.observe(model.apply, params, batches)
    small = jc.weights.compress(params, jc.weights.rtn(jc.formats.INT4_G128), stats=stats)
    logits = jax.jit(jc.lift(model.apply))(small, tokens)

Folders load on first use (PEP 562), so importing jaxcomp does not import jax.
"""

from typing import TYPE_CHECKING

from jaxcomp.base import CapacityError as CapacityError
from jaxcomp.base import Codec as Codec
from jaxcomp.base import Compressor as Compressor
from jaxcomp.base import CorruptStream as CorruptStream
from jaxcomp.base import EntropyModel as EntropyModel
from jaxcomp.base import JaxcompError as JaxcompError
from jaxcomp.base import KVCache as KVCache
from jaxcomp.base import MaterialisedLeaf as MaterialisedLeaf
from jaxcomp.base import Payload as Payload
from jaxcomp.base import Statistic as Statistic
from jaxcomp.base import Transform as Transform
from jaxcomp.base import UnsupportedInput as UnsupportedInput
from jaxcomp.lazy import load_on_use

if TYPE_CHECKING:
    from jaxcomp import cli as cli
    from jaxcomp import codecs as codecs
    from jaxcomp import coding as coding
    from jaxcomp import entropy as entropy
    from jaxcomp import formats as formats
    from jaxcomp import io as io
    from jaxcomp import kernels as kernels
    from jaxcomp import kvcache as kvcache
    from jaxcomp import measures as measures
    from jaxcomp import nets as nets
    from jaxcomp import optim as optim
    from jaxcomp import tree as tree
    from jaxcomp import weights as weights
    from jaxcomp.lift import fake_quantize as fake_quantize
    from jaxcomp.lift import lift as lift
    from jaxcomp.lift import observe as observe
    from jaxcomp.lift import symmetries as symmetries

__version__ = "0.1.0"

load_on_use(
    __name__,
    {
        "cli": (),
        "codecs": (),
        "coding": (),
        "entropy": (),
        "formats": (),
        "io": (),
        "kernels": (),
        "kvcache": (),
        "lift": ("fake_quantize", "lift", "observe", "symmetries"),
        "measures": (),
        "nets": (),
        "optim": (),
        "tree": (),
        "weights": (),
    },
)
