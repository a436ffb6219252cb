"""Microscaling: 32 values share a power of two of one byte. OCP Microscaling Formats 1.0, 2023.

The shared exponent is that of section 6.3, floor(log2 max|w|) - emax with emax that of the largest
level (2 for e2m1, 8 for e4m3, 15 for e5m2): what lies beyond the largest level is clipped, up to a
quarter of it for e2m1 and an eighth for e4m3. Methods that hand over scales of their own have them
rounded to the nearest power of two.
"""

from jaxcomp.formats.float4 import FP4
from jaxcomp.formats.float8 import FP8_E4M3, FP8_E5M2

VALUES = 32  # that share a scale: section 5.2

MXFP4 = FP4._replace(group=VALUES, scale="e8m0", name="mxfp4")
MXFP8 = FP8_E4M3._replace(group=VALUES, scale="e8m0", name="mxfp8 e4m3")
MXFP8_E5M2 = FP8_E5M2._replace(group=VALUES, scale="e8m0", name="mxfp8 e5m2")
