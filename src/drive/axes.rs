//! The axes of the unreduced loss E: how arguments and results line up with it.

use crate::array::{Grid, Shape, Tile, View, ViewMut, broadcasts, short, unravel};
use crate::drive::Reduction;
use crate::drive::domain::Order;
use crate::error::{Error, Kind, Result, Tuple};
use crate::memory;
use crate::num::Float;
use crate::simd::Baseline;
use crate::sum::{BLOCK, ExactSum, sum_block_exactly};

/// Sums that are made side by side where memory runs across them: a cache line of `f32`.
const LINE: usize = 16;

/// The axes of the unreduced loss E, and those of the first input, which its shape follows from.
#[derive(Debug)]
pub struct Axes {
    /// E's shape.
    pub shape: Shape,
    /// The axis of the samples in E.
    pub batch: usize,
    /// Where weights may have an extra axis of size 1: the class axis, or the end.
    pub unit: usize,
    /// The shape of the first input; a number counts as one element, logits of one dimension as one row.
    pub first: Shape,
    /// The axis of the samples in the first input.
    pub samples: usize,
    /// The axis of the classes or of the vectors in the first input, if there is one.
    pub class: Option<usize>,
    /// Whether the first axis is one that the first input does not have, because all of it is one sample.
    pub added: bool,
    /// Whether E is a number.
    pub(crate) scalar: bool,
}

impl Clone for Axes {
    fn clone(&self) -> Self {
        // `SmallVec::clone` goes through an iterator.
        let (shape, first) = (short(&self.shape), short(&self.first));
        Axes { shape, first, ..*self }
    }
}

impl Axes {
    /// Axes of a loss that has one element for each of the first input's.
    pub fn elementwise(first: &[usize], batch_axis: isize) -> Result<Self> {
        let scalar = first.is_empty();
        let shape = short(if scalar { &[1] } else { first });
        let batch = if scalar { 0 } else { axis("batch_axis", batch_axis, first)? };
        Ok(Axes {
            unit: shape.len(),
            first: shape.clone(),
            samples: batch,
            class: None,
            added: scalar,
            shape,
            batch,
            scalar,
        })
    }

    /// Axes of a loss that has one element for each vector of the first input along an axis. A first input of one
    /// dimension is one vector.
    pub fn rowwise(
        (name, first): (&str, &[usize]),
        class: isize,
        batch_axis: isize,
    ) -> Result<Self> {
        if first.is_empty() {
            return Err(Error::new(Kind::Shape, name, "expected at least one dimension, got none"));
        }
        let class = axis("axis", class, first)?;
        let samples = axis("batch_axis", batch_axis, first)?;
        if first.len() == 1 {
            let first = short(&[1, first[0]]);
            return Ok(Axes { first, class: Some(1), added: true, ..Axes::samples(1) });
        }
        if class == samples {
            let detail =
                format!("expected another axis than the class axis {class}, got {batch_axis}");
            return Err(Error::new(Kind::Parameter, "batch_axis", detail));
        }
        let mut shape = short(first);
        shape.remove(class);
        Ok(Axes {
            shape,
            batch: samples - usize::from(samples > class),
            unit: class,
            first: short(first),
            samples,
            class: Some(class),
            added: false,
            scalar: false,
        })
    }

    /// Axes of a loss that has one element for each sample of the first input.
    pub fn samplewise(first: &[usize], batch_axis: isize) -> Result<Self> {
        let full = Axes::elementwise(first, batch_axis)?;
        let own = Axes::samples(full.shape[full.batch]);
        Ok(Axes {
            first: full.first,
            samples: full.samples,
            added: full.added,
            scalar: full.scalar,
            ..own
        })
    }

    /// Axes of a loss that has one element for each pair of vectors of two batches of `n`.
    pub fn pairs(n: usize, first: &[usize], samples: usize) -> Result<Self> {
        let first = short(first);
        Ok(Axes { first, samples, ..Axes::elementwise(&[n, n], 0)? })
    }

    /// Axes of a loss that has one element for each of `n` samples.
    pub fn samples(n: usize) -> Self {
        let shape = short(&[n]);
        Axes {
            first: shape.clone(),
            shape,
            batch: 0,
            unit: 1,
            samples: 0,
            class: None,
            added: false,
            scalar: false,
        }
    }

    /// Axes of one sample alone, whose loss is a number.
    pub fn single() -> Self {
        Axes { scalar: true, added: true, ..Axes::samples(1) }
    }

    /// The axis of the vectors of the first input with its batch axis first; the last where all of a sample is one.
    pub fn vector(&self) -> usize {
        let last = self.first.len() - 1;
        self.class.map_or(last, |class| class + usize::from(class < self.samples))
    }

    /// Axes of one row of the first input, of one dimension, with one element for each of the row's.
    pub fn one_row(first: &[usize]) -> Result<Self> {
        let axes = Axes::elementwise(&[1, first[0]], 0)?;
        Ok(Axes { class: Some(1), added: true, ..axes })
    }

    /// Whether E has the axis that was added to the first input, too.
    fn has_added_axis(&self) -> bool {
        self.added && self.shape.len() == self.first.len() && !self.scalar
    }

    /// E's shape as the caller sees it.
    pub fn unreduced(&self) -> &[usize] {
        let start = if self.scalar { self.shape.len() } else { usize::from(self.has_added_axis()) };
        &self.shape[start..]
    }

    /// Whether E has an axis of samples.
    pub fn is_batch(&self) -> bool {
        !self.scalar && !self.has_added_axis()
    }

    /// Where weights may have an extra axis of size 1.
    pub fn unit_axis(&self) -> usize {
        if self.scalar { 0 } else { self.unit - usize::from(self.has_added_axis()) }
    }

    /// The axis of the vectors in the first input as the caller sees it.
    pub fn vectors(&self) -> Option<usize> {
        self.class.map(|class| class - usize::from(self.added))
    }

    /// The elements of a vector of the first input, or 0 if it has no vectors.
    pub fn vector_len(&self) -> usize {
        self.class.map_or(0, |class| self.first[class])
    }

    /// Whether there are vectors without elements.
    pub fn has_empty_vectors(&self) -> bool {
        self.class.is_some_and(|class| self.first[class] == 0) && !self.shape.contains(&0)
    }

    /// Whether an array is one vector along the class axis, for all others.
    pub fn is_one_vector(&self, shape: &[usize]) -> bool {
        let len = self.vector_len();
        self.class.is_some() && (*shape == [len] || *shape == [1, len])
    }

    /// A view that reshapes to the first input's shape, with the batch axis first and the axis of the vectors last.
    pub fn line_up_rows<'a>(&self, view: &View<'a>) -> Option<View<'a>> {
        Some(self.vectors_last(view.clone().reshape(&self.first)?.move_axis(self.samples, 0)))
    }

    /// As [`Axes::line_up_rows`], for an output.
    pub fn line_up_rows_mut<'a>(&self, view: ViewMut<'a>) -> Option<ViewMut<'a>> {
        let view = view.reshape(&self.first)?.map(|dims| dims.move_axis(self.samples, 0));
        Some(self.vectors_last_mut(view))
    }

    /// A view of the first input's shape with the batch axis first, with the axis of the vectors last.
    pub fn vectors_last<'a>(&self, view: View<'a>) -> View<'a> {
        let last = view.shape().len() - 1;
        view.move_axis(self.vector(), last)
    }

    /// The same, for an output.
    pub fn vectors_last_mut<'a>(&self, view: ViewMut<'a>) -> ViewMut<'a> {
        let last = view.shape().len() - 1;
        view.map(|dims| dims.move_axis(self.vector(), last))
    }

    /// The reverse of [`Axes::vectors_last_mut`].
    pub fn batch_first_of_rows<'a>(&self, view: ViewMut<'a>) -> ViewMut<'a> {
        let last = view.shape().len() - 1;
        view.map(|dims| dims.move_axis(last, self.vector()))
    }

    /// The position with the batch axis first of the first input's element at a position of its rows.
    pub fn unrolled(&self, position: usize) -> usize {
        let mut shape = self.first_order().batch_first();
        let vector = self.vector();
        shape[vector..].rotate_left(1);
        let mut index = unravel(position, &shape);
        for order in [&mut shape[..], &mut index] {
            order[vector..].rotate_right(1);
        }
        index.iter().zip(&shape).fold(0, |flat, (i, d)| flat * d + i)
    }

    /// The index in an array of shape `given`, with the first input's elements in their order, of the element at a
    /// position of its rows.
    pub fn element_of_rows(&self, position: usize, given: &[usize]) -> Vec<usize> {
        self.first_order().element(self.unrolled(position), given)
    }

    fn first_order(&self) -> Order<'_> {
        Order { shape: &self.first, batch: self.samples }
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
    pub fn sum_to<T: Float>(&self, data: &[T], out: ViewMut<'_>) -> Result<()> {
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
            Reduction::None => short(self.unreduced()),
            r if r.is_total() => Shape::new(),
            _ => short(&[self.shape[self.batch]]),
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

    /// Where weights are given for an axis that E lacks.
    fn with_unit_axis(&self) -> Shape {
        let mut shape = self.shape.clone();
        shape.insert(self.unit, 1);
        shape
    }

    /// Whether weights of a shape can be lined up with E.
    ///
    /// # Errors
    /// If they cannot.
    pub fn check_weight(&self, given: &[usize]) -> Result<()> {
        let (n, start) = (self.shape[self.batch], usize::from(self.has_added_axis()));
        let (shape, with_unit_axis) = (&self.shape[start..], &self.with_unit_axis()[start..]);
        let fits = given.is_empty()
            || *given == [n]
            || (given.len() == shape.len() && broadcasts(given, shape))
            || (given.len() == with_unit_axis.len() && broadcasts(given, with_unit_axis));
        if fits {
            return Ok(());
        }
        let expected = format!(
            "expected a scalar, one weight per sample {}, or a shape that broadcasts to {} or {}",
            Tuple(&[n]),
            Tuple(shape),
            Tuple(with_unit_axis)
        );
        let detail = format!("{expected}, got shape {}", Tuple(given));
        Err(Error::new(Kind::Shape, "sample_weight", detail))
    }

    /// The weights of a call, lined up with E.
    ///
    /// # Panics
    /// If [`Axes::check_weight`] refuses their shape.
    pub fn sample_weight<'a>(&self, weight: &View<'a>) -> View<'a> {
        let given = weight.shape();
        let weight = weight.clone();
        let lined_up = if *given == [self.shape[self.batch]] {
            weight.along(self.batch, &self.shape)
        } else if given.len() + usize::from(self.has_added_axis()) > self.shape.len() {
            weight.broadcast_to(&self.with_unit_axis()).map(|w| w.remove_axis(self.unit))
        } else {
            weight.broadcast_to(&self.shape)
        };
        lined_up.expect("shapes are checked first").move_axis(self.batch, 0)
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
