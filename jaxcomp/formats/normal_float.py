"""NF4: 16 levels that are about equally likely for normal weights. Dettmers et al., QLoRA, 2023.

Section 3 and its code: quantiles of the normal distribution, 8 above zero at probabilities evenly
from P down to 1/2, 7 below it in the same way, and zero itself, all over the largest;
P = 1 - (1/32 + 1/30) / 2. A scale is max|w| of 64 values.

NF4 keeps scales in bfloat16: 4.25 bits. NF4_DOUBLE keeps them in 8 bits under one bfloat16 for each
output: 4.125 bits and 16 more per output. The original takes 8 bits of a dynamic map around their
mean, with a float32 for each 256 of them: 4.127 bits. Scales are positive and within a factor of a
few, so even steps from zero serve, and a group of zeros stays one.
"""

from jaxcomp.formats.format import Format

NORMAL_QUANTILES = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
VALUES = 64  # that share a scale

NF4 = Format(4, VALUES, table=NORMAL_QUANTILES, name="nf4")
NF4_DOUBLE = NF4._replace(scale=Format(8, name="uint8"))
