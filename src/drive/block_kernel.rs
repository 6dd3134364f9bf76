//! What an elementwise loss is to the drivers: a function over equally long slices.

use crate::array::ViewMut;
use crate::drive::extremes::Extremes;
use crate::drive::operand::part;
#[cfg(feature = "python")]
use crate::math::Real;
use crate::simd::Level;
use std::ops::Range;

/// The most inputs that an elementwise loss takes.
pub const MAX_OPERANDS: usize = 5;

/// Where a kernel writes; what is `None` is not wanted.
pub struct BlockOutputs<'a, T> {
    /// The loss.
    pub value: Option<&'a mut [T]>,
    /// The derivative with respect to each input.
    pub grads: [Option<&'a mut [T]>; MAX_OPERANDS],
    /// The second derivative with respect to the prediction.
    pub hess: Option<&'a mut [T]>,
}

impl<T> BlockOutputs<'_, T> {
    /// Those of some elements.
    #[inline(always)]
    pub fn part(&mut self, run: &Range<usize>) -> BlockOutputs<'_, T> {
        BlockOutputs {
            value: part(&mut self.value, run),
            grads: self.grads.each_mut().map(|grad| part(grad, run)),
            hess: part(&mut self.hess, run),
        }
    }
}

/// An elementwise loss over slices of one length.
pub trait BlockKernel<T>: Send + Sync {
    /// Rough time for one element in nanoseconds, to decide whether threads pay.
    fn cost(&self) -> f64;
    /// Computes the outputs; derivatives come multiplied by `scale`, the value does not.
    fn run(&self, level: Level, inputs: &[&[T]], outputs: BlockOutputs<'_, T>, scale: T);
}

/// The results of a call: views of shape E for everything but a reduced value.
#[derive(Default)]
pub struct Outputs<'a> {
    /// The loss: E's shape for [`Reduction::None`](crate::drive::Reduction::None), (N,), or ().
    pub value: Option<ViewMut<'a>>,
    /// The gradient with respect to each input.
    pub grads: [Option<ViewMut<'a>>; MAX_OPERANDS],
    /// The second derivative with respect to the prediction.
    pub hess: Option<ViewMut<'a>>,
    /// What is noticed on the way.
    pub extremes: Option<&'a Extremes>,
}

/// An elementwise loss in both types of computation.
#[derive(Clone, Copy)]
pub struct Kernels<'a> {
    /// In single precision.
    pub single: &'a dyn BlockKernel<f32>,
    /// In double precision.
    pub double: &'a dyn BlockKernel<f64>,
}

/// A type of computation, which chooses the kernel.
#[cfg(feature = "python")]
pub trait FewPrecision: Real {
    /// The kernel of this type.
    fn kernel(kernels: Kernels<'_>) -> &dyn BlockKernel<Self>;
}

#[cfg(feature = "python")]
impl FewPrecision for f32 {
    fn kernel(kernels: Kernels<'_>) -> &dyn BlockKernel<Self> {
        kernels.single
    }
}

#[cfg(feature = "python")]
impl FewPrecision for f64 {
    fn kernel(kernels: Kernels<'_>) -> &dyn BlockKernel<Self> {
        kernels.double
    }
}
