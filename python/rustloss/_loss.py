"""The base class of all losses."""

from __future__ import annotations

import copyreg
import functools
import inspect
from collections.abc import Mapping
from difflib import get_close_matches
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Literal,
    NamedTuple,
    Protocol,
    Self,
    get_args,
    overload,
)

from rustloss import _core
from rustloss._interop import shape_and_dtype
from rustloss._parameters import arguments_by_name
from rustloss.errors import CallError, ParameterError

#: Reductions whose result is an array and those whose result is one number, aliases among them.
ArrayReduction = Literal["none", "sample", "sample_sum", "sample_weighted_mean"] | None
NumberReduction = Literal[
    "sum",
    "mean",
    "batch_mean",
    "weighted_mean",
    "target_mean",
    "batchmean",
    "elementwise_mean",
    "sum_over_batch_size",
    "mean_with_sample_weight",
]
Reduction = ArrayReduction | NumberReduction
_REDUCTIONS = [word for kind in get_args(Reduction) for word in get_args(kind)]

#: What PyTorch and Keras call a reduction, and what it is called here.
REDUCTION_ALIASES: dict[str | None, Reduction] = {
    None: "none",
    "batchmean": "batch_mean",
    "elementwise_mean": "mean",
    "sum_over_batch_size": "mean",
    "mean_with_sample_weight": "weighted_mean",
}


#: What other libraries call a parameter, and what it may be here; errors name it.
PARAMETER_WORDS = {
    "beta": "rho",
    "delta": "rho",
    "dim": "axis",
    "eps": "epsilon",
    "full": "compute_full",
    "log_input": "from_logits",
    "reduce": "reduction",
    "size_average": "reduction",
    "smoothing": "label_smoothing",
    "tau": "temperature",
    "zero_infinity": "infeasible",
}


class ArraySpec(NamedTuple):
    """An array without its data."""

    shape: tuple[int, ...]
    dtype: str


class Shaped(Protocol):
    """An array, or what stands for one where its data are not looked at."""

    @property
    def shape(self) -> Any:
        """Its lengths."""

    @property
    def dtype(self) -> Any:
        """The type of its elements."""


class Signature(NamedTuple):
    """What a call gives."""

    #: The value.
    value: ArraySpec
    #: The shape of the unreduced loss, which is what ``reduction="none"`` returns.
    unreduced: tuple[int, ...]
    #: The gradients by the names of their inputs: of all given inputs that have one.
    grads: dict[str, ArraySpec]
    #: ``"none"``, ``"zero"`` or ``"diagonal"``: what `grad_hess` has of the second derivative.
    hess: str


def _known(reduction: object) -> object:
    """Return the reduction that an alias stands for, and any other word as it is."""
    if isinstance(reduction, str | None):
        return REDUCTION_ALIASES.get(reduction, reduction)
    text = f"reduction: expected a word or None, got {reduction!r}; {_words()}"
    raise ParameterError(text, "reduction")


def _words() -> str:
    return f"words of other libraries are {tuple(REDUCTION_ALIASES)}"


def _remedy(cls: type[Loss], argument: str | None, reduction: object) -> str:
    """Return what may have been meant by a parameter that was refused."""
    parameters = inspect.signature(cls).parameters
    if argument == "reduction":
        word = str(reduction).lower()
        near = get_close_matches(word, _REDUCTIONS, 1)
        if word in near:
            # A reduction that this loss does not have.
            return ""
        return f"did you mean {near[0]!r}? {_words()}" if near else _words()
    if argument == "weight" and "class_weight" in parameters:
        return "the weights of the classes are class_weight"
    if argument is None or argument in parameters:
        return ""
    meant = [PARAMETER_WORDS.get(argument, ""), *get_close_matches(argument, parameters, 1)]
    known = [name for name in meant if name in parameters]
    return f"did you mean {known[0]}?" if known else ""


class _Signature:
    """Of a class the constructor's signature, all options by name; of a loss that of its call."""

    def __get__(self, loss: Loss | None, kind: type[Loss]) -> inspect.Signature:
        return _of_constructor(kind) if loss is None else _of_call(loss)


def _of_constructor(kind: type[Loss]) -> inspect.Signature:
    if kind.__new__ is Loss.__new__:
        return inspect.Signature([*kind._stated.values(), *_shared_options()])
    # The class is a user's, with a constructor of its own.
    _, *own = inspect.signature(kind.__new__).parameters.values()
    if own and own[-1].kind is own[-1].VAR_KEYWORD:
        stated = {p.name for p in own}
        own[-1:] = [p for p in _shared_options() if p.name not in stated]
    return inspect.Signature(own)


@functools.cache
def _shared_options() -> list[inspect.Parameter]:
    shared = inspect.signature(Loss.__new__, eval_str=True).parameters.values()
    return [p for p in shared if p.kind is p.KEYWORD_ONLY]


def _of_call(loss: Loss) -> inspect.Signature:
    by_name = inspect.Parameter.KEYWORD_ONLY
    inputs = [
        inspect.Parameter(
            row["name"],
            by_name if row["domain"] == "Offsets" else inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=inspect.Parameter.empty if row["required"] else None,
        )
        for row in loss._inputs
    ]
    options = [inspect.Parameter(name, by_name, default=None) for name in ("out", "denominator")]
    return inspect.Signature([*inputs, *options])


class Loss(_core.Loss):
    """A loss with its parameters: immutable, comparable, picklable, callable.

    Calls take the arrays of the loss by position, in Gluon's order, or by name. What stands behind
    the dots is given by name, and optional.

    ``loss(pred, label, ..., out, denominator)``
        The value.
    ``loss.value_and_grad(pred, label, ..., wrt, grad_output, out, grad_out, denominator)``
        The value and d(sum of value)/d(input), times `grad_output` (a number or an array of the
        value's shape). `wrt` names the inputs: one name gives one array, a tuple of names a tuple.
    ``loss.grad(pred, label, ..., wrt, grad_output, grad_out, denominator)``
        The gradient alone, without the work for the value: the vector-Jacobian product for a
        `grad_output` of the value's shape.
    ``loss.grad_hess(pred, label, ..., grad_output, grad_out, hess_out, denominator)``
        The gradient and the diagonal of the second derivative with respect to the prediction.

    Parameters
    ----------
    weight : float, optional
        Multiplies the loss.
    batch_axis : int, default 0
        The axis of the samples.
    reduction : str, default "sample"
        From the unreduced loss E to the result. With N samples and w the product of the weights:
        ``"none"`` E itself; ``"sample"`` the mean over all axes but `batch_axis`, of shape (N,);
        ``"sample_sum"`` the sum instead; ``"sum"`` the sum of E; ``"mean"`` the mean of E, where
        `denominator=` of the call replaces the divisor, as it does for ``"weighted_mean"``;
        ``"batch_mean"`` sum / N;
        ``"weighted_mean"`` sum(w E) / sum(w), and 0 where sum(w) is 0;
        ``"sample_weighted_mean"`` the same for each sample. Words of PyTorch and Keras are taken
        too: None is ``"none"``, ``"batchmean"`` is ``"batch_mean"``, ``"sum_over_batch_size"`` and
        ``"elementwise_mean"`` are ``"mean"``, ``"mean_with_sample_weight"`` is
        ``"weighted_mean"``.
    empty : {"nan", "zero"}, default "nan"
        The mean of nothing.
    prefix, params
        Gluon's, ignored.

    Notes
    -----
    Every call takes `sample_weight`: a number, one weight per sample (N,), or any array of E's
    number of dimensions (or one more, of size 1) that broadcasts to E. Weights must be finite and
    not negative; an element of weight 0 is out, whatever it holds.

    The prediction decides the element type of the results: float16, bfloat16, float32 or float64;
    integers, truth values and lists are read as float64. For the half types every value that is a
    sum or a mean is float32, and only ``"none"`` of a loss with one number for each element keeps
    the type; gradients keep it always. Results that are one number are NumPy scalars.

    `out` and `grad_out` are arrays of the results' own type and shape (`out` may be float32 for the
    half types) that overlap neither an input nor each other. Element by element losses, those of
    class labels and those through a softmax take the prediction itself as `grad_out`: the gradient
    then replaces it.
    """

    # JAX keeps compiled functions by weak references to what they were made of.
    __slots__ = ("__weakref__",)

    __signature__ = _Signature()

    #: The name in the registry, and the parameters that a class states; `loss_class` sets both.
    _registered: ClassVar[str] = ""
    _stated: ClassVar[Mapping[str, inspect.Parameter]] = {}

    weight: float | None
    batch_axis: int
    reduction: str
    empty: Literal["nan", "zero"]

    def __new__(
        cls,
        *args: Any,
        reduction: Reduction = "sample",
        empty: Literal["nan", "zero"] = "nan",
        prefix: object = None,
        params: object = None,
        **kwargs: Any,
    ) -> Self:
        # Gluon's `prefix` and `params` name parameters that a loss does not have.
        del prefix, params
        if not cls._registered:
            raise TypeError("Loss is the base of all losses; make one of them, as L2Loss()")
        own = arguments_by_name(cls, cls._stated, args, kwargs)
        word = _known(reduction)
        try:
            return super().__new__(cls, cls._registered, reduction=word, empty=empty, **own)
        except ParameterError as error:
            remedy = _remedy(cls, error.argument, reduction)
            if not remedy:
                raise
            raise ParameterError(f"{error}; {remedy}", error.argument) from None

    def __class_getitem__(cls, reduction: object) -> type[Self]:
        """Return the class itself: only type checkers know a loss by its reduction."""
        return cls

    def signature(self, *args: Shaped | None, **kwargs: Shaped | None) -> Signature:
        """Return what a call gives, without its data.

        Parameters
        ----------
        *args, **kwargs
            The inputs of a call, in its order or by name: arrays, or whatever else has a `shape`
            and a `dtype`.

        Returns
        -------
        Signature

        Raises
        ------
        rustloss.errors.CallError
            If an input is missing, or there is no such input.
        rustloss.errors.DTypeError
            If one is no array, or one that a call refuses.
        rustloss.errors.ShapeError
            If an input does not line up with the first.

        Examples
        --------
        >>> import numpy as np
        >>> import rustloss as rl
        >>> signature = rl.SoftmaxCELoss().signature(np.zeros((8, 10), "f"), np.zeros(8, int))
        >>> signature.value
        ArraySpec(shape=(8,), dtype='float32')
        >>> signature.grads
        {'pred': ArraySpec(shape=(8, 10), dtype='float32')}
        """
        given, options, *_ = self._bind("__call__", args, kwargs)
        for name in options:
            raise CallError(f"{name}: unexpected argument; a signature takes inputs alone", name)
        names = [row["name"] for row in self._inputs]
        shapes = [shape_and_dtype(name, given[name]) if name in given else None for name in names]
        row = self._signature(shapes)
        grads = {
            entry["name"]: ArraySpec(shape[0], row["dtype"])
            for entry, shape in zip(self._inputs, shapes, strict=True)
            if entry["gradient"] != "Never" and shape is not None
        }
        value = ArraySpec(row["value"], row["value_dtype"])
        return Signature(value, row["unreduced"], grads, row["hessian"])

    @overload
    def replace(self, *, reduction: Reduction, **changes: object) -> Loss: ...
    @overload
    def replace(self, **changes: object) -> Self: ...
    def replace(self, **changes: Any) -> Loss:
        """Return the same loss with other values of some parameters.

        Parameters
        ----------
        **changes
            Parameters of the constructor by name.

        Raises
        ------
        rustloss.errors.ParameterError
            If the loss has no such parameter, or not that value of it.

        Examples
        --------
        >>> import rustloss as rl
        >>> rl.HingeLoss(margin=0.5).replace(reduction="mean")
        HingeLoss(margin=0.5, reduction='mean')
        """
        return type(self)(**{**self._params, **changes})

    def initialize(self, *args: object, **kwargs: object) -> None:
        """Do nothing: there are no parameters. For code that was written for Gluon."""

    def hybridize(self, active: bool = True, **kwargs: Any) -> None:
        """Do nothing: there is nothing to compile. For code that was written for Gluon."""

    if not TYPE_CHECKING:  # Checkers know the parameters by what the classes state.

        def __getattr__(self, name: str) -> Any:
            try:
                return self._params[name]
            except KeyError:
                text = f"{type(self).__name__!r} object has no attribute {name!r}"
                raise AttributeError(text, name=name, obj=self) from None

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._params})

    def __setattr__(self, name: str, value: object) -> None:
        self._refuse_change(name)
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        self._refuse_change(name)
        super().__delattr__(name)

    def _refuse_change(self, name: str) -> None:
        if name in self._params:
            kind = type(self).__name__
            text = f"{name!r} of {kind} is immutable; loss.replace({name}=...) makes another {kind}"
            raise AttributeError(text, name=name, obj=self)

    def __repr__(self) -> str:
        # CTC's constructor has no batch axis, and a user's may leave out anything.
        stated = {**self._stated, **inspect.signature(type(self)).parameters}
        defaults = {"batch_axis": 0} | {name: p.default for name, p in stated.items()}
        given = [f"{k}={v!r}" for k, v in self._params.items() if defaults.get(k, ...) != v]
        return f"{type(self).__name__}({', '.join(given)})"

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other) or not isinstance(other, Loss):
            return NotImplemented
        return dict(self._params) == dict(other._params)

    # A class with `__eq__` has no hash of its base.
    __hash__ = _core.Loss.__hash__

    def __reduce__(self) -> tuple[Any, ...]:
        return copyreg.__newobj_ex__, (type(self), (), dict(self._params))  # type: ignore[attr-defined]

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self
