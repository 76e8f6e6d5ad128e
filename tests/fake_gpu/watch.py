"""Every operation on the GPU that isn't there: does it mix devices, does it wait, what does it hold?"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from fake_gpu.record import FakeGpu, HostTensorSent, MixedDevices, place_of_call

META = torch.device("meta")
KNOWN = 4096  # elements: what was copied from the host and is not longer can be read back

aten = torch.ops.aten

# Their result's size is known to the device alone.
SIZED_BY_CONTENT = {
    aten.nonzero.default,
    aten.masked_select.default,
    aten._unique2.default,
    aten.unique_dim.default,
    aten.unique_consecutive.default,
    aten.bincount.default,
    aten.repeat_interleave.Tensor,
}


class Pins:
    """Host memory that a real machine would have pinned."""

    def __init__(self) -> None:
        self.storages: set[int] = set()

    def add(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        self.storages.add(storage._cdata)
        weakref.finalize(storage, self.storages.discard, storage._cdata)
        return tensor

    def __contains__(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage()._cdata in self.storages


class Watch(TorchDispatchMode):
    """Sees every operation, those of backward passes too."""

    def __init__(self, gpu: FakeGpu, pins: Pins) -> None:
        super().__init__()
        self.gpu, self.pins = gpu, pins
        self.sizes: dict[int, int] = {}
        self.known: dict[int, Tensor] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunction():  # in here a tensor says where it really is
            return self._seen(func, args, kwargs or {})

    def _seen(self, func: Any, args: Any, kwargs: Any) -> Any:
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        there = [tensor.device.type == "meta" for tensor in tensors]
        if func.namespace == "c10d":
            return self._collective(func, tensors, there, args)
        if kwargs.get("pin_memory"):
            return self.pins.add(func(*args, **{**kwargs, "pin_memory": False}))
        if func is aten._pin_memory.default:
            return self.pins.add(args[0].clone())
        if func is aten.is_pinned.default:
            return args[0] in self.pins
        to = kwargs.get("device")
        if func in (aten._to_copy.default, aten.copy_.default):
            return self._copy(func, args, kwargs, to)
        if not any(there) and not (to is not None and to.type == "meta"):
            return func(*args, **kwargs)
        if func._schema.is_mutable:
            for tensor in tensors:
                self.known.pop(tensor.untyped_storage()._cdata, None)
        return self._count(self._on_device(func, tensors, there, args, kwargs))

    def _on_device(self, func: Any, tensors: Any, there: Any, args: Any, kwargs: Any) -> Any:
        left = [tensor for tensor, on in zip(tensors, there, strict=True) if not on]
        if func is aten._local_scalar_dense.default:
            self.gpu.wait("read")
            known = self._content(args[0])
            return torch.ones((), dtype=args[0].dtype).item() if known is None else known.item()
        if func is aten.equal.default:
            self.gpu.wait("read")
            return True
        if func in SIZED_BY_CONTENT and kwargs.get("output_size") is None:
            self.gpu.wait("read")
            raise RuntimeError(f"{func}: the size of its result waits for the device, at {place_of_call()}")
        if func.overloadpacket in (aten.index, aten.index_put, aten.index_put_):
            indices = [index for index in args[1] if index is not None]
            if func.overloadpacket is not aten.index and not args[2].dim():
                # A number where a mask is true: with CUDA that number is on the host, and torch fills.
                return args[0] if func is aten.index_put_.default else args[0].clone()
            if any(index.dtype in (torch.bool, torch.uint8) for index in indices):
                self.gpu.wait("read")
                raise RuntimeError(f"{func} by a mask: its size waits for the device, at {place_of_call()}")
            if any(index.device.type == "cpu" for index in indices):
                self.gpu.wait("write")
                args = (args[0], [None if i is None else i.to(META) for i in args[1]], *args[2:])
                left = [x for x in left if all(x is not index for index in indices)]
        if any(tensor.dim() for tensor in left):  # a number on the host goes along with the kernel
            shapes = [(list(x.shape), "cuda" if on else "cpu") for x, on in zip(tensors, there, strict=True)]
            raise MixedDevices(f"{func}: {shapes}, at {place_of_call()}")
        out = func(*args, **kwargs)
        if isinstance(out, Tensor) and not func._schema.is_mutable:
            self._follow(func, out, args, kwargs)
        return out

    def _follow(self, func: Any, out: Tensor, args: Any, kwargs: Any) -> None:
        """Small whole numbers that are worked out of known ones are known too: the cuts of packed texts."""
        if out.is_floating_point() or out.numel() > KNOWN or out.untyped_storage()._cdata in self.known:
            return
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        contents = {id(x): self._content(x) for x in given}
        if given and all(content is not None for content in contents.values()):
            args, kwargs = tree_map_only(Tensor, lambda x: contents[id(x)], (args, kwargs))
            self._learn(out, func(*args, **kwargs))

    def _copy(self, func: Any, args: Any, kwargs: Any, to: Any) -> Any:
        if func is aten.copy_.default:
            target, source = args[0], args[1]
            result = target
            from_device, to_device = source.device.type == "meta", target.device.type == "meta"
            waits = not (len(args) > 2 and args[2]) and not kwargs.get("non_blocking")
        else:
            source = args[0]
            from_device = source.device.type == "meta"
            to_device = from_device if to is None else to.type == "meta"
            waits = not kwargs.get("non_blocking")
            result = None
        if from_device == to_device:
            return self._count(func(*args, **kwargs))
        if from_device:
            # Without waiting is right into pinned memory alone: nobody else would know when it is there.
            self.gpu.wait("read") if waits else None
            content = self._content(source)
            content = self._unknown(source) if content is None else content
            if result is not None:
                return result.copy_(content)
            return content.to(kwargs.get("dtype") or source.dtype, copy=True)
        if waits:
            self.gpu.wait("write")
        if source not in self.pins:
            self.gpu.pageable.append(place_of_call())
        if result is None:
            result = torch.empty_strided(
                source.shape, source.stride(), dtype=kwargs.get("dtype") or source.dtype, device=META
            )
        else:
            result.fill_(0)
        if source.numel() <= KNOWN:
            self._learn(result, source.detach().to(result.dtype, copy=True))
        return self._count(result)

    def _learn(self, tensor: Tensor, content: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage.nbytes() == content.numel() * content.itemsize and tensor.is_contiguous():
            self.known[storage._cdata] = content.contiguous()

    def _content(self, tensor: Tensor) -> Tensor | None:
        """What is known of it, or of a part of it."""
        if tensor.device.type == "cpu":
            return tensor
        whole = self.known.get(tensor.untyped_storage()._cdata)
        if whole is None or whole.dtype != tensor.dtype:
            return None
        return whole.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset()).clone()

    def _unknown(self, tensor: Tensor) -> Tensor:
        """What a number is that nobody knows: 1, but for a shape that another stage has sent."""
        if self.gpu.sent_shape and tensor.shape == (3,) and tensor.dtype == torch.int64:
            return torch.tensor(self.gpu.sent_shape)
        return torch.ones(tensor.shape, dtype=tensor.dtype)

    def _collective(self, func: Any, tensors: list[Tensor], there: list[bool], args: Any) -> Any:
        name = func.overloadpacket.__name__
        self.gpu.collectives[name] += 1
        if name != "barrier" and not all(there):
            raise HostTensorSent(f"{name}: a tensor on the host, at {place_of_call()}")
        for tensor in tensors:
            if tensor.is_floating_point():  # whole numbers are flags here, and the other ranks say the same
                self.known.pop(tensor.untyped_storage()._cdata, None)
        return _answer(func, args)

    def _count(self, out: Any) -> Any:
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and tensor.device.type == "meta":
                storage = tensor.untyped_storage()
                key, size = storage._cdata, storage.nbytes()
                if key not in self.sizes:
                    weakref.finalize(storage, self._gone, key)
                self.gpu.live += size - self.sizes.get(key, 0)
                self.sizes[key] = size
        self.gpu.peak = max(self.gpu.peak, self.gpu.live)
        return out

    def resized(self, storage: Any) -> None:
        """Its memory came or went."""
        if storage._cdata in self.sizes:
            self.gpu.live += storage.nbytes() - self.sizes[storage._cdata]
            self.sizes[storage._cdata] = storage.nbytes()
            self.gpu.peak = max(self.gpu.peak, self.gpu.live)

    def _gone(self, key: int) -> None:
        self.gpu.live -= self.sizes.pop(key, 0)
        self.known.pop(key, None)


def _answer(func: Any, args: Any) -> Any:
    """What a collective gives back: its tensors as they are, and work that is done."""
    from torch._C._distributed_c10d import FakeWork

    work = FakeWork()
    boxed = work.boxed() if hasattr(work, "boxed") else work
    outputs = len(func._schema.returns)
    return boxed if outputs == 1 else (args[0], boxed)
