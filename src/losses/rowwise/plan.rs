//! The call of a loss that has one number for each row.

use crate::array::{Shape, elements};
use crate::drive::domain::Check;
use crate::drive::operand::{Argument, MAX_NUMBERS, MAX_VECTORS};
use crate::drive::reduced::Reduced;
use crate::drive::row_kernel::{Erased, Row, RowKernel, TileKernel};
use crate::drive::rows::{Place, Rows, drive};
use crate::drive::scale::Scale;
use crate::drive::weight::Weighting;
use crate::drive::{Axes, range};
use crate::error::Result;
use crate::math::Real;
use crate::memory;
use crate::num::Float;
use crate::registry::{Call, Plan, Results, ShapeRule};
use crate::simd::Level;
use smallvec::SmallVec;

/// Checks a call of `kernel`: vectors are what has an element for each of the first input's, numbers what has one for
/// each row.
pub fn plan<'a, L, const V: usize, const C: usize>(
    kernel: L,
    call: &Call<'a>,
) -> Result<Box<dyn Plan + 'a>>
where
    L: RowKernel<f32, V, C> + RowKernel<f64, V, C> + 'a,
{
    let axes = call.axes.clone();
    let weighting = call.weighting()?;
    Ok(plan_weighted(kernel, call, axes, weighting, None))
}

/// The same for other axes and weights than the call's own, and for factors inside the loss, see
/// [`RowCall::limit_range`].
pub fn plan_weighted<'a, L, const V: usize, const C: usize>(
    kernel: L,
    call: &Call<'a>,
    axes: Axes,
    weighting: Weighting<'a>,
    factors: Option<&[f64]>,
) -> Box<dyn Plan + 'a>
where
    L: RowKernel<f32, V, C> + RowKernel<f64, V, C> + 'a,
{
    let mut rows = RowCall::new::<V, C>(call, axes, weighting);
    rows.limit_range(factors);
    Box::new(RowPlan { kernel, rows })
}

/// Rows whose losses need no memory of their own.
const FEW_ROWS: usize = 16;

/// Inputs of a call with their positions in the registry.
#[derive(std::default::Default)]
struct Positioned<'a> {
    inputs: SmallVec<[Argument<'a>; MAX_VECTORS]>,
    positions: SmallVec<[usize; MAX_VECTORS]>,
}

impl<'a> Positioned<'a> {
    fn add(&mut self, position: usize, argument: Argument<'a>) {
        self.inputs.push(argument);
        self.positions.push(position);
    }
}

/// A checked call, its kernel aside.
pub struct RowCall<'a> {
    level: Level,
    /// Whether losses are computed in `f32`.
    pub single: bool,
    /// E's axes.
    pub axes: Axes,
    vectors: Positioned<'a>,
    numbers: Positioned<'a>,
    /// E's weights.
    pub weighting: Weighting<'a>,
}

struct RowPlan<'a, L, const V: usize, const C: usize> {
    kernel: L,
    rows: RowCall<'a>,
}

impl<L, const V: usize, const C: usize> Plan for RowPlan<'_, L, V, C>
where
    L: RowKernel<f32, V, C> + RowKernel<f64, V, C>,
{
    fn value_shape(&self) -> Shape {
        self.rows.value_shape()
    }
    fn cost(&self) -> f64 {
        <L as RowKernel<f32, V, C>>::COST * self.rows.len() as f64
    }
    fn run(&self, results: Results<'_>) -> Result<()> {
        let kernel = Erased::<L, V, C>(&self.kernel);
        if self.rows.single {
            self.rows.run::<f32>(&kernel, &self.rows.weighting, results)
        } else {
            self.rows.run::<f64>(&kernel, &self.rows.weighting, results)
        }
    }
    fn kinks(&self) -> Result<Vec<f64>> {
        self.rows.kinks(&|row| RowKernel::<f64, V, C>::kinks(&self.kernel, row))
    }
}

impl<'a> RowCall<'a> {
    /// From a call whose first `V` inputs with elements are vectors, and whose first `C` with one number for each vector
    /// are numbers.
    pub fn new<const V: usize, const C: usize>(
        call: &Call<'a>,
        axes: Axes,
        weighting: Weighting<'a>,
    ) -> Self {
        let (mut vectors, mut numbers) = (Positioned::default(), Positioned::default());
        for (at, input) in call.inputs.iter().enumerate() {
            if input.shape.has_elements() && vectors.inputs.len() < V {
                vectors.add(at, call.argument(at, |given| axes.line_up_rows(given)));
            } else if input.shape == ShapeRule::PerVector && numbers.inputs.len() < C {
                numbers.add(at, call.argument(at, |given| axes.line_up(given)));
            }
        }
        RowCall { level: call.level(), single: call.single(), axes, vectors, numbers, weighting }
    }

    /// Computes in `f64` where factors inside the loss have no room in `f32`.
    pub fn limit_range(&mut self, factors: Option<&[f64]>) {
        self.single &= !range::leaves_single(&f64::sizes(factors.unwrap_or_default()));
    }

    /// The shape of the value.
    pub fn value_shape(&self) -> Shape {
        self.axes.value_shape(self.weighting.reduction)
    }

    /// The number of elements of the first input.
    pub fn len(&self) -> usize {
        self.vectors.inputs[0].view.len()
    }

    /// How far each row is from each of its kinks, which `of_row` tells.
    ///
    /// # Errors
    /// If memory is refused.
    #[expect(clippy::disallowed_methods, reason = "for tests of derivatives")]
    pub fn kinks<const V: usize, const C: usize>(
        &self,
        of_row: &dyn Fn(Row<'_, f64, V, C>) -> Vec<f64>,
    ) -> Result<Vec<f64>> {
        let copies = |inputs: &Positioned<'_>| {
            let copies = inputs.inputs.iter().map(|input| input.view.to_vec::<f64>());
            copies.collect::<Result<Vec<_>>>()
        };
        let (vectors, numbers) = (copies(&self.vectors)?, copies(&self.numbers)?);
        let rows = elements(&self.axes.shape);
        let cols = self.len() / rows.max(1);
        let row = |index: usize| Row {
            index,
            vectors: std::array::from_fn(|v| &vectors[v][index * cols..][..cols]),
            numbers: std::array::from_fn(|c| numbers[c][index]),
        };
        Ok((0..rows).flat_map(|index| of_row(row(index))).collect())
    }

    /// Computes the results.
    pub fn run<T: Real>(
        &self,
        kernel: &dyn TileKernel<T>,
        weighting: &Weighting<'_>,
        mut results: Results<'_>,
    ) -> Result<()> {
        let RowCall { axes, level, vectors, numbers, .. } = self;
        let reduced = Reduced { axes, weighting, level: *level };
        let grads: [_; MAX_VECTORS] = std::array::from_fn(|v| {
            axes.line_up_rows_mut(results.grads.take(*vectors.positions.get(v)?)?)
        });
        let number_grads: [_; MAX_NUMBERS] = std::array::from_fn(|c| {
            axes.line_up_mut(results.grads.take(*numbers.positions.get(c)?)?)
        });
        let hess = results.hess.and_then(|v| axes.line_up_rows_mut(v));
        let derives = hess.is_some() || grads.iter().chain(&number_grads).any(Option::is_some);
        let scale = if derives { reduced.scale()? } else { Scale::All(1.0) };
        let rows = elements(&axes.shape);
        let first = &vectors.inputs[0].view;
        let cols = first.len() / rows.max(1);
        let outside = |check: &Check<'_>, place: Place| {
            let row = match place {
                Place::Element(at) => at / cols,
                Place::Row(row) => row,
            };
            if weighting.removes(row, &axes.batch_first()) {
                return Ok(());
            }
            let given = check.given.shape();
            Err(check.error(&match place {
                Place::Element(at) => axes.element_of_rows(at, given),
                Place::Row(row) => axes.element(row, given),
            }))
        };
        let unreduced = if results.value.is_some() { rows } else { 0 };
        let mut unreduced: SmallVec<[T; FEW_ROWS]> =
            memory::collect_small((0..unreduced).map(|_| T::ZERO))?;
        drive(Rows {
            kernel,
            level: *level,
            shape: first.shape(),
            outer: axes.shape.len(),
            vectors: &vectors.inputs,
            numbers: &numbers.inputs,
            outside: &outside,
            grads: grads.each_ref().map(Option::as_ref),
            number_grads: number_grads.each_ref().map(Option::as_ref),
            hess: hess.as_ref(),
            elements: None,
            scale: &scale,
            value: results.value.is_some().then_some(&mut unreduced[..]),
        })?;
        if let Some(value) = results.value {
            reduced.value(&unreduced, value)?;
        }
        Ok(())
    }
}
