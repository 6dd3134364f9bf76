//! Element by element work on so few elements that to cut it into tiles would take longer than to compute it.

use crate::array::elements;
use crate::drive::block_kernel::{BlockKernel, BlockOutputs, MAX_OPERANDS, Outputs};
use crate::drive::operand::tiles;
use crate::drive::weight::{Divisor, Weighting};
use crate::error::Result;
use crate::math::Real;
use crate::memory;
use crate::num::Float;
use crate::simd::{self, Isa, Kernel, Level};
use crate::sum::{BLOCK, ExactSum, sum_block_exactly};
use crate::threads;
use smallvec::SmallVec;

/// The most elements: no more than are summed at once.
const FEW: usize = BLOCK;

/// Elements whose losses need no memory of their own.
const FEWER: usize = 256;

/// A run whose arrays are all of type `T` and in C order, without weights of elements. Its results have the bits that
/// those of tiles have.
pub(crate) struct Few<'a, T> {
    kernel: &'a dyn BlockKernel<T>,
    level: Level,
    /// What sums are multiplied by, and what they are divided by.
    weight: f64,
    divisor: f64,
    /// Whether the value is the loss of each element.
    whole: bool,
    inputs: [&'a [T]; MAX_OPERANDS],
    operands: usize,
}

impl<'a, T: Real> Few<'a, T> {
    /// A run that still lacks its inputs; none if there is more to it than that.
    pub fn new(
        kernel: &'a dyn BlockKernel<T>,
        level: Level,
        weighting: &Weighting<'_>,
        shape: &[usize],
    ) -> Option<Self> {
        let len = elements(shape);
        if !(1..=FEW).contains(&len) || weighting.has_arrays() {
            return None;
        }
        let (weight, Divisor::All(divisor)) = (weighting.weight, weighting.divisor(shape).ok()?)
        else {
            return None;
        };
        let whole = weighting.reduction.keeps_elements(len / shape[0]);
        let scale = weight / divisor;
        // What else a factor does than to multiply derivatives in their own type.
        if scale == 0.0 || !T::fits(scale) || (whole && weight != 1.0) {
            return None;
        }
        let inputs = [&[][..]; MAX_OPERANDS];
        Some(Few { kernel, level, weight, divisor, whole, inputs, operands: 0 })
    }

    /// Adds an input.
    ///
    /// # Panics
    /// If there are as many as a loss takes already.
    pub fn push(&mut self, input: &'a [T]) {
        self.inputs[self.operands] = input;
        self.operands += 1;
    }

    /// Computes the results; none if one of them is of another type or order.
    pub fn run(self, outputs: &Outputs<'_>) -> Option<Result<()>> {
        let Few { kernel, level, weight, divisor, whole, inputs, operands } = self;
        let (mut grads, mut hess) = ([const { None }; MAX_OPERANDS], None);
        let views = outputs.grads.iter().chain([&outputs.hess]);
        for (view, slice) in views.zip(grads.iter_mut().chain([&mut hess])) {
            if let Some(view) = view {
                *slice = Some(tiles(view).dense()?);
            }
        }
        let unreduced = if outputs.value.is_some() && !whole { inputs[0].len() } else { 0 };
        let mut few: SmallVec<[T; FEWER]> =
            match memory::collect_small((0..unreduced).map(|_| T::ZERO)) {
                Ok(few) => few,
                Err(error) => return Some(Err(error)),
            };
        let (mut value, totals) = match &outputs.value {
            Some(view) if whole => (Some(tiles(view).dense()?), None),
            Some(view) => (Some(&mut few[..]), Some(tiles(view).dense()?)),
            None => (None, None),
        };
        Some(threads::alone(|| {
            let wanted = BlockOutputs { value: value.as_deref_mut(), grads, hess };
            kernel.run(level, &inputs[..operands], wanted, T::from_f64(weight / divisor));
            if let (Some(value), Some(totals)) = (value, totals) {
                simd::dispatch(level, Sums { value, weight, divisor, totals });
            }
        }))
    }
}

/// The sums of equal parts of a value, weighted and divided.
struct Sums<'a, T> {
    value: &'a [T],
    weight: f64,
    divisor: f64,
    totals: &'a mut [T],
}

impl<T: Real> Kernel for Sums<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Isa>(self) {
        let Sums { value, weight, divisor, totals } = self;
        let parts = value.chunks_exact(value.len() / totals.len());
        for (to, part) in totals.iter_mut().zip(parts) {
            let mut sum = ExactSum::default();
            sum.add(sum_block_exactly::<S, T>(part));
            *to = T::from_f64(sum.total().weighted(weight) / divisor);
        }
    }
}
