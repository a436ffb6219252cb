"""Readers and writers: signal files, and trees of compressed weights."""

from typing import TYPE_CHECKING

from jaxcomp.lazy import load_on_use

if TYPE_CHECKING:
    from jaxcomp.io.array_files import write_array as write_array
    from jaxcomp.io.awq import from_awq as from_awq
    from jaxcomp.io.awq import to_awq as to_awq
    from jaxcomp.io.coded_size import coded_nbytes as coded_nbytes
    from jaxcomp.io.compressed_tensors import from_compressed_tensors as from_compressed_tensors
    from jaxcomp.io.compressed_tensors import to_compressed_tensors as to_compressed_tensors
    from jaxcomp.io.error_bound import Absolute as Absolute
    from jaxcomp.io.error_bound import Relative as Relative
    from jaxcomp.io.error_bound import ValueRange as ValueRange
    from jaxcomp.io.error_bound import bounds_of as bounds_of
    from jaxcomp.io.features_file import load_features as load_features
    from jaxcomp.io.features_file import save_features as save_features
    from jaxcomp.io.gguf import gguf_metadata as gguf_metadata
    from jaxcomp.io.gguf import load_gguf as load_gguf
    from jaxcomp.io.gguf import save_gguf as save_gguf
    from jaxcomp.io.gguf_leaves import GGUFBlocks as GGUFBlocks
    from jaxcomp.io.gguf_leaves import round_to_gguf as round_to_gguf
    from jaxcomp.io.gptq import from_gptq as from_gptq
    from jaxcomp.io.gptq import to_gptq as to_gptq
    from jaxcomp.io.model_files import compress_file as compress_file
    from jaxcomp.io.model_files import decompress_file as decompress_file
    from jaxcomp.io.model_files import verify_file as verify_file
    from jaxcomp.io.orbax_handler import orbax_handler as orbax_handler
    from jaxcomp.io.photo import Photo as Photo
    from jaxcomp.io.photo import image_bytes as image_bytes
    from jaxcomp.io.photo import read_photo as read_photo
    from jaxcomp.io.qwix_arrays import from_qwix as from_qwix
    from jaxcomp.io.qwix_arrays import to_qwix as to_qwix
    from jaxcomp.io.safetensors_leaves import load_safetensors as load_safetensors
    from jaxcomp.io.safetensors_leaves import save_safetensors as save_safetensors
    from jaxcomp.io.tensor_info import array_infos as array_infos
    from jaxcomp.io.tensors import load_tensors as load_tensors
    from jaxcomp.io.tensors import open_tensors as open_tensors
    from jaxcomp.io.tensors import save_tensors as save_tensors
    from jaxcomp.io.weights_file import load_weights as load_weights
    from jaxcomp.io.weights_file import save_weights as save_weights

load_on_use(
    __name__,
    {
        "array_files": ("write_array",),
        "awq": ("from_awq", "to_awq"),
        "coded_size": ("coded_nbytes",),
        "compressed_tensors": ("from_compressed_tensors", "to_compressed_tensors"),
        "error_bound": ("Absolute", "Relative", "ValueRange", "bounds_of"),
        "features_file": ("load_features", "save_features"),
        "gguf": ("gguf_metadata", "load_gguf", "save_gguf"),
        "gguf_leaves": ("GGUFBlocks", "round_to_gguf"),
        "gptq": ("from_gptq", "to_gptq"),
        "model_files": ("compress_file", "decompress_file", "verify_file"),
        "orbax_handler": ("orbax_handler",),
        "photo": ("Photo", "image_bytes", "read_photo"),
        "qwix_arrays": ("from_qwix", "to_qwix"),
        "safetensors_leaves": ("load_safetensors", "save_safetensors"),
        "tensor_info": ("array_infos",),
        "tensors": ("load_tensors", "open_tensors", "save_tensors"),
        "weights_file": ("load_weights", "save_weights"),
    },
)
