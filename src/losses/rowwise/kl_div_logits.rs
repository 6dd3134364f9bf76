//! Kullback-Leibler divergence from logits: rows through the softmax, all of one weight or each element of its own.

use super::divergence::{Divergence, RowTerms};
use crate::array::{Shape, View, ViewMut};
use crate::drive::columns::{ColumnRows, Columns};
use crate::drive::domain::Check;
use crate::drive::operand::Argument;
use crate::drive::reduced::Reduced;
use crate::drive::row_kernel::{Erased, Row, RowKernel, RowOutputs, TileKernel, Vectors};
use crate::drive::rows::{Place, Rows, drive};
use crate::drive::scale::{Scale, multiply};
use crate::drive::weight::Weighting;
use crate::drive::{Axes, range};
use crate::error::Result;
use crate::math::Real;
use crate::memory;
use crate::num::{Float, Sizes};
use crate::registry::{Plan, Results};
use crate::simd::{Isa, Kernel, Level, dispatch};
use crate::softmax::{Column, Distribution, DistributionRoom, PullFactors, through_softmax};
use crate::sum::sum;

/// Rows of logits whose elements all have the same weight: the sum of E over the row is enough.
pub(super) struct LogitRows(pub Divergence);

impl<T: Real> RowKernel<T, 2, 0> for LogitRows {
    const COST: f64 = 1.2;
    const BY_COLUMNS: bool = true;
    type Scratch = DistributionRoom<T>;

    #[inline(always)]
    fn row<S: Isa>(
        &self,
        Row { vectors: [x, label], .. }: Row<'_, T, 2, 0>,
        outputs: RowOutputs<'_, T, 2, 0>,
        room: &mut DistributionRoom<T>,
        scale: f64,
    ) -> T {
        let LogitRows(divergence) = *self;
        let RowOutputs { grads: [grad, label_grad], hess, wants_value, .. } = outputs;
        let [exps, terms] = room.row.each();
        let t = divergence.temperature;
        let y = divergence.target::<S, T>(label, terms);
        let factors = PullFactors { temperature: t, z_loss: 0.0, scale };
        let (softmax, _) = through_softmax::<S, T>([x, y], factors, [grad, hess], exps);
        let value = wants_value.then_some(&mut *terms);
        let weights = None;
        dispatch(
            S::LEVEL,
            RowTerms { divergence, softmax, x, label, value, label_grad, scale, weights },
        );
        T::from_f64(if wants_value { sum::<S, T>(terms) * t } else { 0.0 })
    }

    #[inline(always)]
    fn columns<S: Isa>(
        &self,
        mut rows: ColumnRows<'_, T>,
        columns: &mut Columns<'_, '_, T>,
        room: &mut DistributionRoom<T>,
    ) -> Result<bool> {
        room.by_columns::<S, _>(&self.0, &mut rows, columns)
    }
}

impl<T: Real> Distribution<T> for Divergence {
    fn temperature(&self) -> f64 {
        self.temperature
    }

    #[inline(always)]
    fn target<'y, S: Isa>(&self, _: usize, label: &'y [T], room: &'y mut [T]) -> &'y [T] {
        (*self).target::<S, T>(label, room)
    }

    #[inline(always)]
    fn summands<S: Isa>(&self, column: Column<'_, T>, _: &[T], out: &mut [T]) {
        dispatch(S::LEVEL, ColumnTerms { divergence: *self, column, scale: None, out });
    }

    fn loss(&self, terms: f64, _: f64, _: T) -> f64 {
        terms * self.temperature
    }

    #[inline(always)]
    fn slopes<S: Isa>(&self, _: usize, column: Column<'_, T>, scale: &[f64], out: &mut [T]) {
        dispatch(S::LEVEL, ColumnTerms { divergence: *self, column, scale: Some(scale), out });
    }
}

/// E / T of one class of many rows, or the derivatives with respect to the labels, times the scale of each row.
struct ColumnTerms<'c, T> {
    divergence: Divergence,
    column: Column<'c, T>,
    scale: Option<&'c [f64]>,
    out: &'c mut [T],
}

impl<T: Real> Kernel for ColumnTerms<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Isa>(self) {
        if self.divergence.log_target { self.fill::<true, S>() } else { self.fill::<false, S>() }
    }
}

impl<T: Real> ColumnTerms<'_, T> {
    #[inline(always)]
    fn fill<const LOG: bool, S: Isa>(self) {
        let ColumnTerms { divergence, column, scale, out } = self;
        if let Some(scale) = scale {
            let scale = &scale[..out.len()];
            column.map(out, |r, label, gap, log_sum| {
                T::from_f64(divergence.slope::<LOG, S, T>(label, gap + log_sum) * scale[r])
            });
        } else {
            column.map(out, |_, label, gap, log_sum| {
                divergence.term::<LOG, S, T>(label, gap + log_sum).value
            });
        }
    }
}

/// Rows of logits whose elements have weights of their own, the third input, relative to the row's scale.
struct WeightedRows(Divergence);

impl<T: Real> RowKernel<T, 3, 0> for WeightedRows {
    const COST: f64 = 1.5;
    type Scratch = Vectors<T, 2>;

    #[inline(always)]
    fn row<S: Isa>(
        &self,
        Row { vectors: [x, label, weight], .. }: Row<'_, T, 3, 0>,
        outputs: RowOutputs<'_, T, 3, 0>,
        scratch: &mut Vectors<T, 2>,
        scale: f64,
    ) -> T {
        let WeightedRows(divergence) = *self;
        let RowOutputs { grads: [grad, label_grad, _], hess, elements: mut value, .. } = outputs;
        let [exps, weighted] = scratch.each();
        let y = divergence.target::<S, T>(label, exps);
        for ((w, &y), &weight) in weighted.iter_mut().zip(y).zip(weight) {
            *w = y.weighted(weight);
        }
        let t = divergence.temperature;
        let factors = PullFactors { temperature: t, z_loss: 0.0, scale };
        let (softmax, _) = through_softmax::<S, T>([x, weighted], factors, [grad, hess], exps);
        let (of_elements, weights) = (value.as_deref_mut(), Some(weight));
        dispatch(
            S::LEVEL,
            RowTerms {
                divergence,
                softmax,
                x,
                label,
                value: of_elements,
                label_grad,
                scale,
                weights,
            },
        );
        if let Some(value) = value {
            multiply(value, t);
        }
        T::ZERO
    }
}

/// From logits, where E itself is wanted or weights differ along the class axis.
pub(super) struct ElementPlan<'a> {
    pub divergence: Divergence,
    pub level: Level,
    pub single: bool,
    pub axes: Axes,
    pub inputs: [Argument<'a>; 2],
    /// The label's position in the registry.
    pub at_label: usize,
    pub weighting: Weighting<'a>,
}

impl Plan for ElementPlan<'_> {
    fn value_shape(&self) -> Shape {
        self.axes.value_shape(self.weighting.reduction)
    }
    fn cost(&self) -> f64 {
        <WeightedRows as RowKernel<f32, 3, 0>>::COST * self.inputs[0].view.len() as f64
    }
    fn run(&self, results: Results<'_>) -> Result<()> {
        let ElementPlan { axes, weighting, level, inputs: [x, _], .. } = self;
        let reduced = Reduced { axes, weighting, level: *level };
        let shape = x.view.shape();
        let derives = results.hess.is_some() || results.grads.iter().next().is_some();
        let (mut weights, mut has_room) = (Vec::new(), true);
        let scale = match weighting.uniform_scale(&axes.batch_first())? {
            Some(scale) => Scale::All(scale),
            None if !derives => Scale::All(1.0),
            None => {
                memory::grow(&mut weights, x.view.len(), 0.0)?;
                let view = ViewMut::from_slice(&mut weights, shape);
                reduced.scales(axes.batch_first_of_rows(view))?;
                let rows = weights.chunks_exact_mut(shape.last().copied().unwrap_or(1).max(1));
                Scale::Each(memory::collect(rows.map(|row| {
                    let Sizes { least, most, .. } = f64::sizes(row);
                    let relative = Sizes { least: least / most, most: 1.0, any_sign: false };
                    has_room &= most == 0.0 || !range::leaves_single(&relative);
                    normalise(row)
                }))?)
            }
        };
        let kernel = Erased(&WeightedRows(self.divergence));
        if self.single && has_room {
            self.run_in::<f32>(&kernel, results, &weights, &scale)
        } else {
            self.run_in::<f64>(&kernel, results, &weights, &scale)
        }
    }
}

impl ElementPlan<'_> {
    /// With the weights of the elements relative to the scale of their row.
    fn run_in<T: Real>(
        &self,
        kernel: &dyn TileKernel<T>,
        mut results: Results<'_>,
        weights: &[f64],
        scale: &Scale,
    ) -> Result<()> {
        let ElementPlan { axes, weighting, level, .. } = self;
        let reduced = Reduced { axes, weighting, level: *level };
        let [x, label] = &self.inputs;
        let shape = x.view.shape();
        let wanted = [results.grads.take(0), results.grads.take(self.at_label), None];
        let grads = wanted.map(|v| axes.line_up_rows_mut(v?));
        let hess = results.hess.and_then(|v| axes.line_up_rows_mut(v));
        let weight = match scale {
            Scale::All(_) => View::from_slice(&[1.0], &[]).broadcast_to(shape),
            Scale::Each(_) => Some(View::from_slice(weights, shape)),
        };
        let Some(weight) = weight.map(Argument::from) else { return Ok(()) };
        let outside = |check: &Check<'_>, place: Place| {
            let (Place::Element(position) | Place::Row(position)) = place;
            if weighting.removes(axes.unrolled(position), &axes.batch_first()) {
                return Ok(());
            }
            Err(check.error(&axes.element_of_rows(position, check.given.shape())))
        };
        let len = if results.value.is_some() { x.view.len() } else { 0 };
        let mut unreduced = memory::filled(T::ZERO, len)?;
        let value = results.value.is_some().then(|| {
            let view = ViewMut::from_slice(&mut unreduced, &axes.batch_first());
            axes.vectors_last_mut(view)
        });
        drive(Rows {
            kernel,
            level: *level,
            shape,
            outer: shape.len() - 1,
            vectors: &[x.clone(), label.clone(), weight],
            numbers: &[],
            outside: &outside,
            grads: grads.each_ref().map(Option::as_ref),
            number_grads: [None; 2],
            hess: hess.as_ref(),
            elements: value.as_ref(),
            scale,
            value: None,
        })?;
        if let Some(value) = results.value {
            reduced.value(&unreduced, value)?;
        }
        Ok(())
    }
}

/// Divides the weights of a row by one number, which it returns: the largest of them, unless that leaves no room for
/// the smallest, whose middle with the largest it is then.
fn normalise(row: &mut [f64]) -> f64 {
    let Sizes { least, most, .. } = f64::sizes(row);
    if most.is_nan() || most == f64::INFINITY {
        return 1.0;
    }
    let divisor = if least / most < f64::MIN_POSITIVE { least.sqrt() * most.sqrt() } else { most };
    if most > 0.0 {
        for weight in row {
            *weight /= divisor;
        }
    }
    divisor
}
