"""What autograd has to know: the value, its gradient, and the derivative of that."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import TransformType

from rustloss._interop import as_array
from rustloss.errors import DTypeError
from rustloss.torch._arrays import as_tensor, is_batched, to_numpy, to_tensor
from rustloss.torch._op import Call, mean, parse, places, run, signature, traits

#: Bytes of a number in single precision.
_SINGLE = 4


class Eager(torch.autograd.Function):
    """The value, by the shortest way: no tracing, no transforms."""

    @staticmethod
    def forward(
        ctx: Any, call: Call, order: tuple[str, ...], others: dict[str, Any], *tensors: Tensor
    ) -> Tensor:
        """Compute the value together with its gradients, so that arrays are read once.

        Of several values the gradients are those of their mean, which is what is mostly taken of
        them. Those of half types wait for what arrives, as a loss is scaled for their sake.
        """
        ctx.save_for_backward(*tensors)
        ctx.args = call, order, others
        traits, arrays = call.traits, [*map(to_numpy, call.names, tensors)]
        given, first = arrays, arrays[0]
        if not call.leads:
            others = {**dict(zip(call.names, arrays, strict=True)), **others}
            name = traits.names[0]
            given, first = [], as_array(name, others[name]) if name in others else first
        if min([first.itemsize, *[arrays[at].itemsize for at in call.differentiated]]) < _SINGLE:
            ctx.grads = None
            value = traits.loss(*given, **others)
        elif traits.apart:
            share = mean(traits, first.shape, first.dtype)
            ctx.share = float(share)
            options: dict[str, Any] = {**others, "wrt": call.wrt, "grad_output": share}
            value, ctx.grads = traits.loss.value_and_grad(*given, **options)
        else:
            ctx.share = 1.0
            value, ctx.grads = traits.loss.value_and_grad(*given, wrt=call.wrt, **others)
        tensor: Tensor = to_tensor(value)
        return tensor

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        """Give the gradients away; who asks again, or for more, has them computed again."""
        call, order, others = ctx.args
        tensors = ctx.saved_tensors
        saved, ctx.grads = ctx.grads, None
        try:
            if torch.is_grad_enabled():
                grads = _traced_grads(call, order, others, tensors, upstream)
            elif saved is None or (factor := _factor(upstream, ctx.share)) is None:
                arrays = dict(zip(call.names, map(to_numpy, call.names, tensors), strict=True))
                output = to_numpy("grad_output", upstream)
                options: dict[str, Any] = {"wrt": call.wrt, "grad_output": output}
                grads = to_tensor(call.traits.loss.grad(**arrays, **others, **options))
            else:
                grads = to_tensor(saved)
                if factor != 1:
                    for grad in grads:
                        grad.mul_(factor)
        except (RuntimeError, DTypeError):
            if not is_batched(upstream):
                raise
            grads = _traced_grads(call, order, others, tensors, upstream)
        return None, None, None, *[None if at is None else grads[at] for at in call.gradients]


def _traced_grads(
    call: Call,
    order: tuple[str, ...],
    others: Mapping[str, Any],
    tensors: Sequence[Tensor],
    upstream: Tensor,
) -> tuple[Tensor, ...]:
    """Return gradients that have a derivative, or are of many upstream gradients at a time."""
    given = {**others, **dict(zip(call.names, tensors, strict=True))}
    whole = [as_tensor(name, given[name]) for name in order]
    return _slope(replace(call, names=order), upstream, whole)


def _slope(call: Call, upstream: Tensor, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return the gradients, for each of many upstream gradients if that is what autograd sends.

    What ``is_grads_batched=True`` sends has no graph by `Slope`: only its slices have one.
    """
    grads: tuple[Tensor, ...]
    if not torch._C._functorch.is_legacy_batchedtensor(upstream):
        grads = Slope.apply(call, upstream, *tensors)
        return grads
    level = torch._C._vmapmode_increment_nesting() - 1
    torch._C._vmapmode_decrement_nesting()
    slices = torch._remove_batch_dim(upstream, level, 1, 0).unbind()
    rows = [Slope.apply(call, one, *tensors) for one in slices]
    stacks = [torch.stack(column) for column in zip(*rows, strict=True)]
    return tuple(torch._add_batch_dim(stack, 0, level) for stack in stacks)


def _factor(upstream: Tensor, share: float) -> float | None:
    """Return what gradients for `share` at every element of a value are to be multiplied by.

    None is returned if the product is not what the loss gives for `upstream`, digit by digit: it is
    for one number at every element that is `share` times a power of two, as where a mean is scaled
    or accumulated. The gradient of a single number is multiplied by whatever arrives.
    """
    if not upstream.ndim:
        arriving: float = upstream.item()
        return arriving / share
    if not upstream.numel():
        return None
    distinct = upstream[tuple([slice(None) if step else 0 for step in upstream.stride()])]
    least, largest = torch.aminmax(distinct)
    factor = least.item() / share
    is_exact = torch.equal(least, largest) and math.frexp(factor)[0] == 0.5
    return factor if is_exact else None


class Value(torch.autograd.Function):
    """The value through the operator: for the compiler, `torch.func` and forward mode."""

    generate_vmap_rule = True

    @staticmethod
    def forward(call: Call, *tensors: Tensor) -> Tensor:
        return run(call, "__call__", tensors)[0]

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        ctx.call, *tensors = inputs
        _save(ctx, tensors)
        ctx.shape, ctx.dtype = output.shape, output.dtype

    @staticmethod
    def backward(ctx: Any, upstream: Tensor | None) -> Any:
        found: dict[str, Tensor] = {}
        if upstream is not None:
            call = ctx.call.wanted(ctx.needs_input_grad[1:])
            grads = _slope(call, upstream, ctx.saved_tensors)
            found = dict(zip(call.wrt, grads, strict=True))
        return None, *[found.get(name) for name in ctx.call.names]

    @staticmethod
    def jvp(ctx: Any, _: None, *tangents: Tensor | None) -> Tensor:
        wrt = ctx.call.wanted([tangent is not None for tangent in tangents])
        moves = _present(ctx.call.names, tangents)
        return _along(wrt, ctx.saved_tensors, moves, ctx.shape).to(ctx.dtype)


@torch.compiler.allow_in_graph
def traced(text: str, names: tuple[str, ...], *tensors: Tensor) -> Tensor:
    """Return the value of a loss through the operator.

    The compiler does not look in here, as it would not take a `jvp`: it leaves the call in its
    graph and traces all that torch does with it, the derivatives of any order among it.

    Parameters
    ----------
    text : str
        The loss, as `Traits.text` has it.
    names : tuple of str
        What the tensors are.
    *tensors : Tensor
        All arguments of the call.

    Raises
    ------
    NotImplementedError
        If forward mode is taken of forward mode, which torch would take for zero.
    """
    stack = torch._C._functorch.get_interpreter_stack() or ()
    if sum(level.key() == TransformType.Jvp for level in stack) > 1:
        message = "expected one level of forward mode, got several; take torch.func.hessian, or"
        raise NotImplementedError(f"{message} torch.func.jacfwd of torch.func.jacrev")
    value: Tensor = Value.apply(Call(traits(parse(text)), tuple(names)), *tensors)
    return value


class Slope(torch.autograd.Function):
    """The gradients for what arrives at the value."""

    generate_vmap_rule = True

    @staticmethod
    def forward(call: Call, upstream: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        return run(call, "grad", tensors, upstream)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:  # noqa: ARG004
        ctx.call, *tensors = inputs
        _save(ctx, tensors)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> Any:
        upstream, *tensors = ctx.saved_tensors
        moves = _present(ctx.call.wrt, cotangents)
        by_upstream, *needed = ctx.needs_input_grad[1:]
        output, bent = None, None
        if moves and by_upstream:
            output = _along(ctx.call, tensors, moves, upstream.shape).to(upstream.dtype)
        if moves and any(needed):
            others = ctx.call.wanted(needed).wrt
            bent = _bend(ctx.call, upstream, tensors, moves, others)
        return None, output, bent, *[None] * (len(tensors) - 1)

    @staticmethod
    def jvp(ctx: Any, _: None, output: Tensor | None, *tangents: Tensor | None) -> Any:
        upstream, *tensors = ctx.saved_tensors
        moves = _present(ctx.call.names, tangents)
        parts: list[tuple[Tensor, ...]] = []
        if output is not None:
            parts.append(Slope.apply(ctx.call, output, *tensors))
        if moves:
            parts.append((_bend(ctx.call, upstream, tensors, moves, ctx.call.wrt),))
        return tuple(functools.reduce(torch.add, terms) for terms in zip(*parts, strict=True))


class Curve(torch.autograd.Function):
    """The diagonal of the second derivative by the first input, which has no derivative here."""

    generate_vmap_rule = True

    @staticmethod
    def forward(call: Call, upstream: Tensor, *tensors: Tensor) -> Tensor:
        return run(call, "grad_hess", tensors, upstream)[1]

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        """Save nothing: the derivatives below need nothing."""

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise NotImplementedError("expected at most two derivatives of a loss, got a third")

    jvp = backward


def _save(ctx: Any, tensors: Sequence[Tensor]) -> None:
    ctx.save_for_backward(*tensors)
    ctx.save_for_forward(*tensors)
    # What does not move is None then, and can be told from what moves.
    ctx.set_materialize_grads(False)


def _present(names: Sequence[str], tensors: Sequence[Tensor | None]) -> dict[str, Tensor]:
    pairs = zip(names, tensors, strict=True)
    return {name: tensor for name, tensor in pairs if tensor is not None}


def _bend(
    call: Call,
    upstream: Tensor,
    tensors: Sequence[Tensor],
    moves: Mapping[str, Tensor],
    others: Sequence[str],
) -> Tensor:
    """Return the second derivative by the first input times a direction.

    `moves` and `others` are the inputs by which it is wanted, in the one order or the other.

    Raises
    ------
    NotImplementedError
        If the loss does not have all of it, or if another input has a part in it.
    """
    first = call.traits.names[0]
    mixed = sorted({*moves, *others} - {first})
    if mixed:
        text = f"expected a second derivative by {first} alone, got one by {', '.join(mixed)}"
        raise NotImplementedError(f"{text} too; detach what needs no gradient")
    kind = signature(call, tensors).hess
    if kind == "none" or (kind == "diagonal" and not call.traits.elementwise):
        text = "expected a loss that has all of its second derivative"
        raise NotImplementedError(f"{text}, got {call.traits.loss!r}")
    return Curve.apply(call, upstream, *tensors) * moves[first]


def _along(
    call: Call, tensors: Sequence[Tensor], moves: Mapping[str, Tensor], shape: torch.Size
) -> Tensor:
    """Return the derivative of a value of that shape when inputs move."""
    one = torch.ones((), dtype=torch.float64)
    grads = Slope.apply(replace(call, wrt=(*moves,)), one, *tensors)
    kept = _kept(call, tensors) if shape else dict.fromkeys(moves, ())
    terms = []
    for (name, move), grad in zip(moves.items(), grads, strict=True):
        if name not in kept:
            text = f"expected a reduction that gives one number, as an element of {name} has a part"
            raise NotImplementedError(f"{text} in several losses; got shape {tuple(shape)}")
        gone = [axis for axis in range(grad.ndim) if axis not in kept[name]]
        term = grad * move
        terms.append((term.sum(gone) if gone else term).reshape(shape))
    return functools.reduce(torch.add, terms)


def _kept(call: Call, tensors: Sequence[Tensor]) -> dict[str, tuple[int | None, ...]]:
    """Return the axes of the inputs that are the value's; over the others it sums.

    An input is not in it if one element of it has a part in several numbers of the value.
    """
    if call.traits.coupled:
        return {}
    where = places(call.traits.text, tensors[0].shape)
    kept = {}
    for name, tensor in zip(call.names, tensors, strict=True):
        if tensor.shape == tensors[0].shape:
            kept[name] = where.first
        elif tensor.shape == where.shape:
            kept[name] = where.unreduced
    return kept
