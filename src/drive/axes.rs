//! The axes of the unreduced loss E: how arguments and results line up with it.

use crate::array::{Grid, Shape, Tile, View, ViewMut};
use crate::drive::Reduction;
use crate::drive::domain::Order;
use crate::error::{Error, Kind, Result, Tuple};
use crate::memory;
use crate::num::Float;
use crate::simd::Baseline;
use crate::sum::{BLOCK, ExactSum, sum_block_exactly};

/// Sums that are made side by side where memory runs across them: a cache line of `f32`.
const LINE: usize = 16;

/// The axes of the unreduced loss E.
#[derive(Clone, Debug)]
pub struct Axes {
    /// E's shape.
    pub shape: Shape,
    /// The axis of the samples.
    pub batch: usize,
    /// Where weights may have an extra axis of size 1: the class axis, or the end.
    pub unit: usize,
    /// Whether the input was a single number, so that E is one too.
    scalar: bool,
}

impl Axes {
    /// Axes of a loss that has one element for each of the prediction's.
    pub fn elementwise(pred: &[usize], batch_axis: isize) -> Result<Self> {
        let scalar = pred.is_empty();
        let shape = Shape::from_slice(if scalar { &[1] } else { pred });
        let batch = if scalar { 0 } else { axis("batch_axis", batch_axis, pred)? };
        Ok(Axes { unit: shape.len(), shape, batch, scalar })
    }

    /// Axes of a loss that has one element for each row of the prediction along the class axis, which comes second. A
    /// prediction of one dimension is one row.
    pub fn rowwise(pred: &[usize], class_axis: isize, batch_axis: isize) -> Result<(Self, usize)> {
        if pred.is_empty() {
            return Err(Error::new(
                Kind::Shape,
                "pred",
                "expected at least one dimension, got none",
            ));
        }
        let class = axis("axis", class_axis, pred)?;
        let batch = axis("batch_axis", batch_axis, pred)?;
        if pred.len() == 1 {
            return Ok((Axes::samples(1), 0));
        }
        if class == batch {
            let detail =
                format!("expected another axis than the class axis {class}, got {batch_axis}");
            return Err(Error::new(Kind::Parameter, "batch_axis", detail));
        }
        let mut shape = Shape::from_slice(pred);
        shape.remove(class);
        let batch = batch - usize::from(batch > class);
        Ok((Axes { shape, batch, unit: class, scalar: false }, class))
    }

    /// A view of the prediction's shape with the batch axis first and the class axis last.
    pub fn line_up_rows<'a>(&self, view: View<'a>, class_axis: usize) -> View<'a> {
        let last = view.shape().len() - 1;
        if last == 0 {
            return view.insert_axis(0);
        }
        view.move_axis(class_axis, last).move_axis(self.batch, 0)
    }

    /// As [`Axes::line_up_rows`], for an output that reshapes to the prediction's shape.
    pub fn line_up_rows_mut<'a>(
        &self,
        view: ViewMut<'a>,
        pred: &[usize],
        class_axis: usize,
    ) -> Option<ViewMut<'a>> {
        Some(view.reshape(pred)?.map(|v| self.line_up_rows(v, class_axis)))
    }

    /// The index in an array of shape `given`, with E's elements in E's order, of the element at a position of E with
    /// the batch axis first.
    pub fn element(&self, position: usize, given: &[usize]) -> Vec<usize> {
        self.order().element(position, given)
    }

    /// The order of E's elements as the drivers see them.
    pub fn order(&self) -> Order<'_> {
        Order { shape: &self.shape, batch: self.batch }
    }

    /// Axes of a loss that has one element for each of `n` samples.
    pub fn samples(n: usize) -> Self {
        Axes { shape: Shape::from_slice(&[n]), batch: 0, unit: 1, scalar: false }
    }

    /// Axes of one sample alone, whose loss is a number.
    pub fn single() -> Self {
        Axes { scalar: true, ..Axes::samples(1) }
    }

    /// E's shape with the batch axis first, as the drivers want it.
    pub fn batch_first(&self) -> Shape {
        self.order().batch_first()
    }

    /// A view of E's shape, or of one that reshapes to it, with the batch axis first.
    pub fn line_up<'a>(&self, view: &View<'a>) -> Option<View<'a>> {
        Some(view.clone().reshape(&self.shape)?.move_axis(self.batch, 0))
    }

    /// As [`Axes::line_up`], for an output.
    pub fn line_up_mut<'a>(&self, view: ViewMut<'a>) -> Option<ViewMut<'a>> {
        Some(view.reshape(&self.shape)?.map(|v| v.move_axis(self.batch, 0)))
    }

    /// A view that broadcasts to E's shape, with the batch axis first.
    pub fn broadcast<'a>(&self, view: &View<'a>) -> Option<View<'a>> {
        Some(view.clone().broadcast_to(&self.shape)?.move_axis(self.batch, 0))
    }

    /// Sums `data`, in E's shape with the batch axis first, over the axes that `out` broadcasts along.
    pub fn sum_to<T: Float>(&self, data: &[T], out: &ViewMut<'_>) -> Result<()> {
        let data = View::from_slice(data, &self.batch_first()).move_axis(0, self.batch);
        let lead = self.shape.len() - out.shape().len();
        let is_kept = |axis: usize| axis >= lead && out.shape()[axis - lead] != 1;
        // The axes that stay first: a row for each sum.
        let (kept, summed): (Shape, Shape) = (0..self.shape.len()).partition(|&a| is_kept(a));
        let data = data.permute(kept.iter().chain(&summed).copied());
        let mut grid = Grid::new(data.shape(), kept.len());
        grid.add(data.strides());
        grid.merge();
        let (mut sums, mut buffer) = (memory::filled(0.0, grid.rows)?, [T::ZERO; BLOCK]);
        // Several sums at a time, where their terms lie side by side.
        let cols = if grid.prefers_rows(0) { BLOCK / LINE } else { BLOCK }.min(grid.cols);
        let rows = BLOCK / cols.max(1);
        for row in (0..grid.rows).step_by(rows) {
            let rows = rows.min(grid.rows - row);
            let mut totals = [ExactSum::default(); BLOCK];
            for col in (0..grid.cols).step_by(cols.max(1)) {
                let tile = Tile { row, rows, col, cols: cols.min(grid.cols - col) };
                let tile_data = grid.load(&data, 0, tile, &mut buffer[..tile.len()]);
                for (total, terms) in totals.iter_mut().zip(tile_data.chunks_exact(tile.cols)) {
                    total.add(sum_block_exactly::<Baseline, T>(terms));
                }
            }
            for (sum, total) in sums[row..row + rows].iter_mut().zip(&totals) {
                *sum = total.total();
            }
        }
        out.copy_from(&sums);
        Ok(())
    }

    /// The shape of the value.
    pub fn value_shape(&self, reduction: Reduction) -> Shape {
        match reduction {
            _ if self.scalar => Shape::new(),
            Reduction::None => Shape::from_slice(&self.shape),
            r if r.is_total() => Shape::new(),
            _ => Shape::from_slice(&[self.shape[self.batch]]),
        }
    }

    /// The value as the drivers want it: E with the batch axis first, (N,), or ().
    pub fn value<'a>(&self, value: ViewMut<'a>, reduction: Reduction) -> Option<ViewMut<'a>> {
        match reduction {
            Reduction::None => self.line_up_mut(value),
            r if r.is_total() => Some(value),
            _ => value.reshape(&[self.shape[self.batch]]),
        }
    }

    /// The weights of a call, lined up with E.
    pub fn sample_weight<'a>(&self, weight: &View<'a>) -> Result<View<'a>> {
        let n = self.shape[self.batch];
        let (rank, mut unit_shape) = (self.shape.len(), self.shape.clone());
        unit_shape.insert(self.unit, 1);
        let given = weight.shape();
        let weight = weight.clone();
        let lined_up = if given.is_empty() {
            weight.broadcast_to(&self.shape)
        } else if *given == [n] {
            weight.along(self.batch, &self.shape)
        } else if given.len() == rank {
            weight.broadcast_to(&self.shape)
        } else if given.len() == rank + 1 {
            weight.broadcast_to(&unit_shape).map(|w| w.remove_axis(self.unit))
        } else {
            None
        };
        lined_up.map(|w| w.move_axis(self.batch, 0)).ok_or_else(|| {
            let expected = format!(
                "expected a scalar, one weight per sample {}, or a shape that broadcasts to {} or {}",
                Tuple(&[n]),
                Tuple(&self.shape),
                Tuple(&unit_shape)
            );
            let detail = format!("{expected}, got shape {}", Tuple(given));
            Error::new(Kind::Shape, "sample_weight", detail)
        })
    }

    /// The gradient from outside, lined up with E.
    pub fn grad_output<'a>(&self, grad: &View<'a>, reduction: Reduction) -> Result<View<'a>> {
        let batch_first = self.batch_first();
        let expected = self.value_shape(reduction);
        let given = grad.shape();
        let lined_up = if given.is_empty() {
            grad.clone().broadcast_to(&batch_first)
        } else if *given != *expected {
            None
        } else if reduction == Reduction::None {
            self.line_up(grad)
        } else {
            grad.clone().along(0, &batch_first)
        };
        lined_up.ok_or_else(|| {
            let (expected, given) = (Tuple(&expected), Tuple(given));
            let detail =
                format!("expected a scalar or the value's shape {expected}, got shape {given}");
            Error::new(Kind::Shape, "grad_output", detail)
        })
    }
}

/// A possibly negative axis of `shape` as a position.
pub fn axis(name: &str, given: isize, shape: &[usize]) -> Result<usize> {
    let rank = shape.len() as isize;
    if (-rank..rank).contains(&given) {
        return Ok(given.rem_euclid(rank) as usize);
    }
    let detail = format!(
        "expected an axis of pred's shape {}, from {} to {}, got {given}",
        Tuple(shape),
        -rank,
        rank - 1
    );
    Err(Error::new(Kind::Parameter, name, detail))
}
