"""Floats of 8 bits: e4m3 (largest 448, no infinity) and e5m2 (largest 57344), OCP FP8 1.0, 2023.

Codes are the bit patterns. Rounding is a cast, to nearest and ties to even, clipped to the largest
finite value: NaN and infinity are never written. One scale per output channel, or one in all.
"""

from jaxcomp.formats.format import Format

E4M3 = "float8_e4m3fn"
E5M2 = "float8_e5m2"

FP8_E4M3 = Format(8, table=E4M3, name="fp8 e4m3")
FP8_E5M2 = Format(8, table=E5M2, name="fp8 e5m2")
FP8_E4M3_TENSOR = FP8_E4M3._replace(group=None, scale="float32")
FP8_E5M2_TENSOR = FP8_E5M2._replace(group=None, scale="float32")
