"""Integers: symmetric INT* and asymmetric UINT*, per output channel or in groups.

INT4 has one scale per output channel, INT4_G128 one per 128 values of the packed axis; others by
`INT4_G128._replace(group=...)`. Scales are bfloat16: codes are chosen after they are rounded, so
little is lost by that, and 4 bits in groups of 128 cost 4.125 bits per weight. The zeros of UINT*
are bytes.
"""

from jaxcomp.formats.format import Format
from jaxcomp.kernels.packing import TRITS

INT8 = Format(8, offset=128)
INT4 = Format(4, offset=8)
INT3 = Format(3, offset=4)
INT2 = Format(2, offset=2)
TERNARY = Format(TRITS, table=(0.0, 1.0, 2.0), offset=1)  # -1, 0, 1 at 1.6 bits

UINT8 = Format(8, zero="uint8")
UINT4 = Format(4, zero="uint8")
UINT3 = Format(3, zero="uint8")
UINT2 = Format(2, zero="uint8")

INT8_G128 = INT8._replace(group=128)
INT4_G128 = INT4._replace(group=128)
INT4_G64 = INT4._replace(group=64)
INT4_G32 = INT4._replace(group=32)
INT3_G128 = INT3._replace(group=128)
INT3_G64 = INT3._replace(group=64)
INT3_G32 = INT3._replace(group=32)
INT2_G64 = INT2._replace(group=64)
INT2_G32 = INT2._replace(group=32)

UINT4_G128 = UINT4._replace(group=128)
UINT4_G64 = UINT4._replace(group=64)
UINT4_G32 = UINT4._replace(group=32)
UINT3_G128 = UINT3._replace(group=128)
UINT3_G64 = UINT3._replace(group=64)
UINT3_G32 = UINT3._replace(group=32)
UINT2_G64 = UINT2._replace(group=64)
UINT2_G32 = UINT2._replace(group=32)
UINT2_G16 = UINT2._replace(group=16)
