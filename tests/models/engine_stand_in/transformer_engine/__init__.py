"""A stand-in for Transformer Engine: its real modules are CUDA kernels, and neither a GPU nor a wheel of its
torch part is at hand here. It has the signatures, parameter names and marks of 2.20.2's Python sources
(pytorch/module/{linear,layernorm_linear,rmsnorm}.py, pytorch/attention), on torch's functions and for one
rank, so that what Megatron's own wrappers make of them can be loaded, run, trained and exported on the CPU.
Kernels, precision and tensor parallelism of the real one are for tests/gpu."""

from . import common, pytorch

__version__ = "2.10.0"
__all__ = ["common", "pytorch"]
