"""NVFP4: 16 values of e2m1 share a scale of e4m3, and all of these one float.

weight = e2m1 * e4m3 * global,   global = max over groups of (max|w| / 6) / 448

The global scale brings the scales of groups into the range of e4m3, whatever the size of the
weights: without it, scales of small weights fall below its least normal value of 2**-6. It is kept
as a bfloat16, where others keep a float32: a product of the three is then exact in float32, so that
a weight on the grid comes back; with a rounded global scale the largest scale is still 448.
"""

from jaxcomp.formats.float4 import FP4
from jaxcomp.formats.float8 import FP8_E4M3

VALUES = 16  # that share a scale

NVFP4 = FP4._replace(group=VALUES, scale=FP8_E4M3._replace(group=None), name="nvfp4")
