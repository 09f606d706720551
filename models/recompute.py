"""Maps that the backward pass computes again in place of keeping them: activations for a little time.

A convolution's output is kept for the normalisation behind it; what that returns, and the activation behind it, are
kept as well, for the next convolution. But they follow from the first by two cheap passes, with the mean and deviation
that are kept anyway (Chen et al. 2016, arXiv 1604.06174, section 3; Rota Bulo et al. 2018, arXiv 1712.02616, figure
2b). Here no network is rewritten: functions of torch are watched while a network runs, and what autograd wants to keep
is replaced by how it is computed, where that needs nothing that is not kept in any case. The same kernels see the same
numbers, so that gradients and weights are the same bit for bit; nothing draws, and running means are not touched twice.
"""

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional
from torch.overrides import TorchFunctionMode

SUMS = 2
"""How many sums of a residual network's blocks follow one another before one is kept: each is computed again from the
one before it."""


class _Source(Protocol):
    """Where a map is computed from."""

    sums: int
    """How many sums of maps it is away from what is kept."""

    def map(self) -> tuple[Tensor, bool]:
        """The map, and whether nobody else has it: then it may be overwritten. It needs no gradient."""


def _address(storage: torch.UntypedStorage) -> StorageWeakRef:
    """Reserves the address of a memory: as long as this is held nothing else gets it, though the memory may go."""
    return StorageWeakRef(storage)  # type: ignore[no-untyped-call]  # torch leaves it untyped


class _Kept:
    """A tensor that autograd keeps."""

    sums = 0

    def __init__(self, tensor: Tensor) -> None:
        self._tensor, self._version = tensor.detach(), tensor._version

    def taken(self) -> Tensor:
        """The tensor, for an operation."""
        return self.map()[0]

    def map(self) -> tuple[Tensor, bool]:
        """The tensor. Raises RuntimeError where it was overwritten, as autograd itself does."""
        if self._tensor._version != self._version:
            raise RuntimeError(
                f"a tensor of {tuple(self._tensor.shape)} that the backward pass needs was overwritten (version "
                f"{self._tensor._version}, expected {self._version})"
            )
        return self._tensor, False


class _Map:
    """A map that is computed when it is asked for."""

    def __init__(self, tensor: Tensor, sources: Sequence[_Source], compute: Callable[..., Tensor], sums: int) -> None:
        self.sums, self.dtype = sums, tensor.dtype
        self._sources, self._compute = sources, compute
        self._size, self._stride, self._version = tensor.shape, tensor.stride(), tensor._version
        self._alive = weakref.ref(tensor)
        self._storage = _address(tensor.untyped_storage())
        self._uses = self._left = 0
        self._held: Tensor | None = None

    def overwritten(self) -> bool:
        """Whether the tensor is known to be another one by now."""
        tensor = self._alive()
        return tensor is not None and tensor._version != self._version

    def covers(self, tensor: Tensor) -> bool:
        """Whether a tensor is this map as it was computed, and no part or turn of it."""
        return tensor.shape == self._size and tensor.stride() == self._stride and tensor.dtype == self.dtype

    def used(self) -> None:
        """One more operation wants it in the backward pass."""
        self._uses += 1

    def map(self) -> tuple[Tensor, bool]:
        """It, computed where nobody has it."""
        if self._held is not None:
            return self._held, False
        tensor = self._alive()
        if tensor is not None and tensor._version == self._version:
            return tensor.detach(), False
        with torch.no_grad():
            computed = self._compute(*(source.map() for source in self._sources))
            if computed.stride() != self._stride:
                computed = computed.new_empty_strided(self._size, self._stride).copy_(computed)
        return computed, True

    def taken(self) -> Tensor:
        """It, for an operation; kept until the last of those that want it has taken it."""
        tensor, _ = self.map()
        self._left = (self._left or self._uses) - 1
        self._held = tensor if self._left else None
        return tensor


class _View:
    """A map as an operation saw it: all of it, a part, or with its axes in another order."""

    def __init__(self, whole: _Map, tensor: Tensor) -> None:
        self.whole, self.sums = whole, whole.sums
        self._place = None
        if not whole.covers(tensor):
            self._place = tensor.size(), tensor.stride(), tensor.storage_offset()

    @property
    def is_whole(self) -> bool:
        """Whether it is all of the map, as it was computed."""
        return self._place is None

    def map(self) -> tuple[Tensor, bool]:
        """It as a source of other maps."""
        whole, own = self.whole.map()
        return (whole, own) if self._place is None else (whole.as_strided(*self._place), False)

    def taken(self) -> Tensor:
        """It, for the operation."""
        whole = self.whole.taken()
        return whole if self._place is None else whole.as_strided(*self._place)


class _Packed:
    """What autograd keeps in place of a tensor."""

    def __init__(self, source: "_Kept | _View") -> None:
        self._source = source

    @property
    def kept(self) -> Tensor | None:
        """The tensor itself, where it is kept."""
        return self._source.map()[0] if isinstance(self._source, _Kept) else None

    def become(self, view: _View) -> None:
        """It need not be kept after all."""
        self._source = view
        view.whole.used()

    def taken(self) -> Tensor:
        """The tensor, for an operation of the backward pass."""
        return self._source.taken()


class _Maps:
    """What is known of the maps of one forward pass."""

    def __init__(self) -> None:
        self._kept: dict[int, StorageWeakRef] = {}
        self._maps: dict[int, _Map] = {}
        self._packs: list[_Packed] = []
        self._call: list[tuple[_Packed, Tensor]] = []
        """Of the operation that runs: it may keep what it returns before anybody knows how that is computed again."""

    def pack(self, tensor: Tensor) -> _Packed:
        """What autograd keeps in place of a tensor."""
        view = self._view(tensor)
        if view is not None:
            view.whole.used()
            return _Packed(view)
        packed = _Packed(_Kept(tensor))
        storage = tensor.untyped_storage()
        self._kept[storage._cdata] = _address(storage)
        self._packs.append(packed)
        self._call.append((packed, tensor.detach()))
        return packed

    def called(self, function: Callable[..., Any], *given: Any, **options: Any) -> Any:
        """What a function of torch returns."""
        self._call.clear()
        return function(*given, **options)

    def source(self, tensor: Tensor) -> _Source | None:
        """Where a tensor can be had in the backward pass without keeping more; None where it cannot."""
        view = self._view(tensor)
        if view is not None:
            return view
        return _Kept(tensor) if tensor.untyped_storage()._cdata in self._kept else None

    def _view(self, tensor: Tensor) -> _View | None:
        key = tensor.untyped_storage()._cdata
        whole = self._maps.get(key)
        if whole is None:
            return None
        if whole.overwritten() or whole.dtype != tensor.dtype:
            del self._maps[key]
            return None
        return _View(whole, tensor)

    def add(
        self, tensor: Tensor, sources: Sequence[_Source | None], compute: Callable[..., Tensor], *, sums: int = 0
    ) -> None:
        """A tensor that can be computed again by `compute` from (map, whether it may be overwritten) of each source.

        sums: how many sums of maps that is more."""
        storage = tensor.untyped_storage()
        known = [source for source in sources if source is not None]
        sums += max((source.sums for source in known), default=0)
        fills = tensor.numel() * tensor.element_size() == storage.nbytes()
        self._maps.pop(storage._cdata, None)
        if len(known) == len(sources) and sums <= SUMS and fills:
            whole = self._maps[storage._cdata] = _Map(tensor, known, _as_now(tensor, compute), sums)
            for packed, kept in self._call:
                if kept.untyped_storage()._cdata == storage._cdata and kept.dtype == tensor.dtype:
                    packed.become(_View(whole, kept))
                    self._kept.pop(storage._cdata, None)
        self._call.clear()

    def overwrites(self, before: _Source | None) -> _Source | None:
        """The source that is left of what a tensor was, once an operation has overwritten it."""
        return before if isinstance(before, _View) and before.is_whole else None

    def forget(self) -> None:
        """The pass is over; what autograd keeps stays."""
        self._kept.clear()
        self._maps.clear()
        self._packs.clear()
        self._call.clear()

    def kept(self) -> Iterator[Tensor]:
        """Each tensor that is kept as it is, as often as an operation keeps it."""
        yield from (packed.kept for packed in self._packs if packed.kept is not None)

    def drop(self, tensor: Tensor) -> None:
        """A tensor was overwritten, by nobody knows what."""
        self._maps.pop(tensor.untyped_storage()._cdata, None)

    def changed(self, tensor: Tensor) -> None:
        """An operation returned the tensor that it was given, overwritten or not."""
        known = self._maps.get(tensor.untyped_storage()._cdata)
        if known is not None and known.overwritten():
            self.drop(tensor)


def _as_now(tensor: Tensor, compute: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`compute` in the precision that operations have now: the backward pass runs outside of autocast."""
    kind = tensor.device.type
    if kind == "meta" or not torch.is_autocast_enabled(kind):
        return compute
    dtype = torch.get_autocast_dtype(kind)

    def computed(*sources: tuple[Tensor, bool]) -> Tensor:
        with torch.autocast(kind, dtype, cache_enabled=False):
            return compute(*sources)

    return computed


def _batch_norm(
    maps: _Maps,
    function: Callable[..., Tensor],
    given: Tensor,
    mean: Tensor | None,
    variance: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`functional.batch_norm`. On the host its mean and deviation are used again, elsewhere they are computed again."""
    out: Tensor
    if not training:
        return function(given, mean, variance, weight, bias, False, momentum, eps)
    if given.device.type in ("cpu", "meta") and given.numel() > given.shape[1] and eps > 0 and _is_dense(given):
        out, *batch = maps.called(torch.native_batch_norm, given, weight, bias, mean, variance, True, momentum, eps)
        again = partial(_normalised, mean=batch[0].detach(), scale=batch[1].detach(), weight=weight, bias=bias)
    else:
        out = maps.called(function, given, mean, variance, weight, bias, True, momentum, eps)
        again = partial(function, running_mean=None, running_var=None, weight=weight, bias=bias, training=True, eps=eps)
    maps.add(out, [maps.source(given)], lambda source: again(source[0]))
    return out


def _is_dense(tensor: Tensor) -> bool:
    """Whether a map is what torch's fast kernel takes; the other one rounds elsewhere."""
    orders = [torch.contiguous_format, *_LAST.get(tensor.ndim, ())]
    return any(tensor.is_contiguous(memory_format=order) for order in orders)


_LAST: Mapping[int, tuple[torch.memory_format, ...]] = {4: (torch.channels_last,), 5: (torch.channels_last_3d,)}


def _normalised(given: Tensor, mean: Tensor, scale: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """What batch normalisation returned that took this mean, and one over this deviation as the scale.

    The kernel multiplies the weight with one over the root of the variance, before it sees a pixel. Given their product
    as the weight and 1 as the variance it gets the same product, to the last bit.
    """
    weight = scale if weight is None else weight * scale
    return torch.native_batch_norm(given, weight, bias, mean, torch.ones_like(scale), False, 0.0, 0.0)[0]


def _instance_norm(
    maps: _Maps,
    function: Callable[..., Tensor],
    given: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`functional.instance_norm`, which is batch normalisation of all images' channels as those of one image."""
    images, channels, *size = given.shape
    single = given[0, 0].numel() == 1  # which has no deviation, and is refused
    if running_mean is not None or running_var is not None or not use_input_stats or single:
        return function(given, running_mean, running_var, weight, bias, use_input_stats, momentum, eps)
    one = given.contiguous().view(1, images * channels, *size)
    weights, biases = (None if tensor is None else tensor.repeat(images) for tensor in (weight, bias))
    of_one = _batch_norm(maps, functional.batch_norm, one, None, None, weights, biases, True, momentum, eps)
    return of_one.view(given.shape)


def _again(maps: _Maps, function: Callable[..., Any], given: Tensor, *more: Any, **options: Any) -> Tensor:
    """A normalisation or a copy: what it returned is computed by calling it again."""
    out: Tensor = maps.called(function, given, *more, **options)
    if out.untyped_storage()._cdata != given.untyped_storage()._cdata:
        maps.add(out, [maps.source(given)], lambda source: function(source[0], *more, **options))
    return out


def _activation(maps: _Maps, function: Callable[..., Any], given: Tensor, *more: Any, **options: Any) -> Tensor:
    """An elementwise function, which may overwrite what it is given where it has an option for that."""
    before = maps.source(given)
    out: Tensor = maps.called(function, given, *more, **options)
    # What an activation keeps for its own backward pass is known after it.
    source = maps.overwrites(before) if out is given else maps.source(given)
    may = options.pop("inplace", None) is not None

    def compute(source: tuple[Tensor, bool]) -> Tensor:
        computed: Tensor = function(source[0], *more, **options, **({"inplace": source[1]} if may else {}))
        return computed

    maps.add(out, [source], compute)
    return out


def _relu(maps: _Maps, function: Callable[..., Any], given: Tensor) -> Tensor:
    """A ReLU by another name."""
    return _activation(maps, functional.relu, given, inplace=function in (torch.relu_, Tensor.relu_))


def _sum(maps: _Maps, function: Callable[..., Any], first: Any, second: Any = None, **options: Any) -> Any:
    """The sum of two maps."""
    maps_alone = isinstance(first, Tensor) and isinstance(second, Tensor) and not options
    if not maps_alone or first.shape != second.shape or first.dtype != second.dtype:
        out = function(first, second, **options)
        if out is first:
            maps.drop(out)
        return out
    before = maps.source(first), maps.source(second)
    out = maps.called(function, first, second)
    sources = [maps.overwrites(before[0]) if out is first else before[0], before[1]]
    maps.add(out, sources, lambda one, other: one[0].add_(other[0]) if one[1] else one[0] + other[0], sums=1)
    return out


_RULES: Mapping[Callable[..., Any], Callable[..., Any]] = {
    functional.batch_norm: _batch_norm,
    functional.instance_norm: _instance_norm,
    **dict.fromkeys((functional.group_norm, functional.layer_norm), _again),
    **dict.fromkeys((torch.roll, Tensor.roll, Tensor.contiguous, Tensor.reshape, torch.reshape), _again),
    **dict.fromkeys((functional.relu, functional.relu6, functional.leaky_relu, functional.prelu), _activation),
    **dict.fromkeys((functional.gelu, functional.silu, functional.hardswish, functional.hardtanh), _activation),
    **dict.fromkeys((torch.relu, torch.relu_, Tensor.relu, Tensor.relu_), _relu),
    **dict.fromkeys((torch.add, Tensor.add, Tensor.__add__, Tensor.add_, Tensor.__iadd__), _sum),
}
"""Function of torch -> what watches it."""


class _Watch(TorchFunctionMode):
    """Watches the functions of torch that a network calls."""

    def __init__(self, maps: _Maps) -> None:
        super().__init__()
        self._maps = maps

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        options = kwargs or {}
        watched = torch.is_grad_enabled() and bool(args) and isinstance(args[0], Tensor)
        rule = _RULES.get(func) if watched else None
        if rule is not None:
            return rule(self._maps, func, *args, **options)
        out = func(*args, **options)
        if func is Tensor.__setitem__:
            self._maps.drop(args[0])
        elif args and out is args[0] and isinstance(out, Tensor):
            self._maps.changed(out)
        return out


@contextmanager
def _watched(keep: Callable[[Tensor], object] | None) -> Iterator[None]:
    maps = _Maps()
    with _Watch(maps), torch.autograd.graph.saved_tensors_hooks(maps.pack, _Packed.taken):
        try:
            yield
            if keep is not None:
                for tensor in maps.kept():
                    keep(tensor)
        finally:
            maps.forget()


def recomputing(name: str, keep: Callable[[Tensor], object] | None = None) -> AbstractContextManager[None]:
    """A network that runs inside keeps its maps for the backward pass ("none"), or all but those of its normalisations
    and what follows from them ("normalisation"): activations, copies, and sums that end a residual block.

    Joined maps, pooling's places and the inputs of attention stay. Not made for `torch.compile`, which students do not
    use. Where a loss reads a tap, that map is alive until the loss is done with it, and is not computed again.
    keep: is given each tensor that is kept, after the pass, with "normalisation" alone.
    """
    return nullcontext() if name == "none" else _watched(keep)
