//! The call of a loss that has one number for each row.

use crate::array::{Shape, View, ViewMut, elements, unravel};
use crate::drive::Axes;
use crate::drive::domain::{Check, Order};
use crate::drive::operand::Argument;
use crate::drive::reduced::Reduced;
use crate::drive::rows::{RowKernel, Rows, drive};
use crate::drive::scale::Scale;
use crate::drive::weight::Weighting;
use crate::error::{Error, Kind, Result, Tuple};
use crate::math::Real;
use crate::memory;
use crate::registry::{Call, Plan, Results};
use crate::simd::Level;

/// How the arrays of a call lie: of the first input's shape, the batch axis first, the axis of the vectors last.
#[derive(Clone, Debug)]
pub struct Layout {
    shape: Shape,
    batch: usize,
    vector: Option<usize>,
}

impl Layout {
    /// From the first input's shape, its batch axis, and the axis of the vectors where rows are vectors along one axis.
    pub fn new(shape: &[usize], batch: usize, vector: Option<usize>) -> Self {
        // The batch axis is moved first.
        let vector = vector.map(|v| v + usize::from(v < batch));
        Layout { shape: shape.into(), batch, vector }
    }

    /// A view that reshapes to the first input's shape.
    pub fn line_up<'a>(&self, view: &View<'a>) -> Option<View<'a>> {
        Some(self.order(view.clone().reshape(&self.shape)?))
    }

    /// As [`Layout::line_up`], for an output.
    pub fn line_up_mut<'a>(&self, view: ViewMut<'a>) -> Option<ViewMut<'a>> {
        Some(view.reshape(&self.shape)?.map(|v| self.order(v)))
    }

    /// As [`Layout::line_up`], for the input of a call at a position.
    ///
    /// # Errors
    /// If the input has another shape.
    pub fn input<'a>(&self, call: &Call<'a>, position: usize) -> Result<Argument<'a>> {
        let (name, given) = (call.names[position], call.input(position));
        let view = self.line_up(given).ok_or_else(|| {
            let (first, shape) = (call.names[0], call.input(0).shape());
            let detail = format!(
                "expected {first}'s shape up to axes of size 1, or one dimension with as many elements ({first} has shape {}), got shape {}",
                Tuple(shape),
                Tuple(given.shape())
            );
            Error::new(Kind::Shape, name, detail)
        })?;
        let check = call.check(position, call.domains[position]);
        Ok(Argument { view, check, overwritten: position == 0 && call.in_place })
    }

    /// The index in an array of shape `given`, with the first input's elements in their order, of the element at a
    /// position of what is lined up.
    pub fn element(&self, position: usize, given: &[usize]) -> Vec<usize> {
        Order { shape: &self.shape, batch: self.batch }.element(self.unrolled(position), given)
    }

    /// The position with the batch axis first of the element at a position of what is lined up.
    pub fn unrolled(&self, position: usize) -> usize {
        let mut shape = Order { shape: &self.shape, batch: self.batch }.batch_first();
        let last = shape.len() - 1;
        let vector = self.vector.unwrap_or(last);
        shape[vector..].rotate_left(1);
        let mut index = unravel(position, &shape);
        for order in [&mut shape[..], &mut index] {
            order[vector..].rotate_right(1);
        }
        index.iter().zip(&shape).fold(0, |flat, (i, d)| flat * d + i)
    }

    /// A view of the first input's shape with the batch axis first, lined up.
    pub fn vector_last<'a>(&self, view: View<'a>) -> View<'a> {
        let last = view.shape().len() - 1;
        view.move_axis(self.vector.unwrap_or(last), last)
    }

    /// The reverse of [`Layout::vector_last`].
    pub fn batch_first<'a>(&self, view: View<'a>) -> View<'a> {
        let last = view.shape().len() - 1;
        view.move_axis(last, self.vector.unwrap_or(last))
    }

    fn order<'a>(&self, view: View<'a>) -> View<'a> {
        self.vector_last(view.move_axis(self.batch, 0))
    }
}

/// A checked call: `kernel` over rows of `inputs`, one number of E for each.
pub struct RowPlan<'a, L, const K: usize> {
    /// The loss.
    pub kernel: L,
    /// The instruction set.
    pub level: Level,
    /// Whether losses are computed in `f32`.
    pub single: bool,
    /// E's axes.
    pub axes: Axes,
    /// How inputs and outputs lie.
    pub layout: Layout,
    /// The inputs, lined up.
    pub inputs: [Argument<'a>; K],
    /// E's weights.
    pub weighting: Weighting<'a>,
}

impl<L, const K: usize> Plan for RowPlan<'_, L, K>
where
    L: RowKernel<f32, K> + RowKernel<f64, K>,
{
    fn value_shape(&self) -> Shape {
        self.axes.value_shape(self.weighting.reduction)
    }
    fn cost(&self) -> f64 {
        <L as RowKernel<f32, K>>::COST * self.inputs[0].view.len() as f64
    }
    fn run(&self, results: Results<'_>) -> Result<()> {
        if self.single { self.run_in::<f32>(results) } else { self.run_in::<f64>(results) }
    }
}

impl<L, const K: usize> RowPlan<'_, L, K> {
    fn run_in<T: Real>(&self, results: Results<'_>) -> Result<()>
    where
        L: RowKernel<T, K>,
    {
        let RowPlan { axes, weighting, level, .. } = self;
        let reduced = Reduced { axes, weighting, level: *level };
        let mut given = results.grads.into_iter();
        let mut grad = || given.next()?.and_then(|v| self.layout.line_up_mut(v));
        let grads: [_; K] = std::array::from_fn(|_| grad());
        let hess = results.hess.and_then(|v| self.layout.line_up_mut(v));
        let derives = hess.is_some() || grads.iter().any(Option::is_some);
        let scale = if derives { reduced.scale()? } else { Scale::All(1.0) };
        let rows = elements(&axes.shape);
        let cols = self.inputs[0].view.len() / rows.max(1);
        let outside = |check: &Check<'_>, position: usize| {
            if weighting.removes(position / cols, &axes.batch_first()) {
                return Ok(());
            }
            Err(check.error(&self.layout.element(position, check.given.shape())))
        };
        let mut unreduced =
            memory::filled(T::ZERO, if results.value.is_some() { rows } else { 0 })?;
        drive(
            &self.kernel,
            Rows {
                level: *level,
                shape: self.inputs[0].view.shape(),
                outer: axes.shape.len(),
                inputs: self.inputs.each_ref(),
                outside: &outside,
                grads: grads.each_ref().map(Option::as_ref),
                hess: hess.as_ref(),
                elements: None,
                scale: &scale,
                value: results.value.is_some().then_some(&mut unreduced[..]),
            },
        )?;
        if let Some(value) = results.value {
            reduced.value(&unreduced, value)?;
        }
        Ok(())
    }
}
