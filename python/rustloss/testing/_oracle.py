"""A loss in plain NumPy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rustloss._loss import Loss
from rustloss.testing import _checks
from rustloss.testing._registry import spec_of

if TYPE_CHECKING:
    from rustloss.testing.oracles.registry import Result
    from rustloss.testing.oracles.weighting import Array


class Oracle:
    """A loss as float64 NumPy computes it by its formula, without the compiled code; see `oracle`.

    Attributes
    ----------
    loss : Loss
        The loss whose parameters it has.
    """

    def __init__(self, loss: Loss) -> None:
        self.loss = loss

    def __call__(self, *args: Any, **kwargs: Any) -> Array:
        """Return the value of a call, an array of float64; the arguments are those of the loss."""
        return self.results(*args, **kwargs).value

    def results(self, *args: Any, **kwargs: Any) -> Result:
        """Return value, gradients and second derivative of a call.

        Parameters
        ----------
        *args, **kwargs
            What ``loss.value_and_grad`` takes but `wrt`, `out` and `grad_out`.

        Returns
        -------
        Result
            The named tuple ``(value, grads, hess)``: `grads` has the gradient by every input that
            has one, by its name, and `hess` is the diagonal of the second derivative by the
            prediction, or None.
        """
        from rustloss.testing.oracles import evaluate

        inputs, options, _, _ = self.loss._bind("value_and_grad", args, kwargs)
        return evaluate(spec_of(self.loss).name, self.loss._params, **inputs, **options)

    def __repr__(self) -> str:
        return f"oracle({self.loss!r})"


def oracle(loss: Loss) -> Oracle:
    """Return a loss as a function in plain float64 NumPy: slow, obvious, to compare with.

    It is written from the formulas and shares no code with the loss. It is for valid calls: it
    checks less, and labels outside of their domain may get a number of the formula.

    Parameters
    ----------
    loss : Loss
        The loss; its parameters matter, reduction and weight included.

    Returns
    -------
    Oracle
        A function of the loss's arguments; its method `results` has the derivatives as well.

    Examples
    --------
    >>> import rustloss as rl
    >>> huber = rl.testing.oracle(rl.HuberLoss(rho=2.0))
    >>> huber([1.0, 5.0], [0.0, 0.0])
    array([0.25, 4.  ])
    >>> huber.results([1.0, 5.0], [0.0, 0.0]).grads["pred"]
    array([0.5, 1. ])
    """
    return Oracle(_checks.instance(loss))
