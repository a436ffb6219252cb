"""Layers that codecs share, in flax.linen, and their exact integer twins."""
