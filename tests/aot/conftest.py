"""Compilers for machines that are not here: libtpu and XLA's CUDA backend, run on a CPU."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["TPU_SKIP_MDS_QUERY"] = "1"  # there is no metadata server to ask
os.environ["TPU_LIBRARY_PATH"] = __import__("libtpu").get_library_path()
