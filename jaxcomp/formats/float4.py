"""Floats of 4 bits: e2m1, as in OCP Microscaling Formats 1.0, section 5.3.3.

The highest bit of a code is the sign, and zero is written without it.
"""

from jaxcomp.formats.format import Format

MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
E2M1 = (*MAGNITUDES, *(-magnitude for magnitude in MAGNITUDES))

FP4 = Format(4, table=E2M1, name="fp4")
FP4_G32 = FP4._replace(group=32)
