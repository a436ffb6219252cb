"""name_unit(x, y) -> scalar: distortion, rate-distortion and information."""

from .bjontegaard import bd_psnr_db as bd_psnr_db
from .bjontegaard import bd_rate_percent as bd_rate_percent
from .bpp import bpp as bpp
from .entropy_bits import entropy_bits as entropy_bits
from .kl_nats import kl_nats as kl_nats
from .ms_ssim import ms_ssim as ms_ssim
from .psnr_db import psnr_db as psnr_db
from .quantisation_space_utilisation import (
    quantisation_space_utilisation as quantisation_space_utilisation,
)
