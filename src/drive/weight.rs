//! Weights: scalar, per sample, per element, and the gradient that arrives from outside.

use crate::array::{Grid, Tile};
use crate::array::{View, elements, unravel};
use crate::drive::Reduction;
use crate::drive::domain::Check;
use crate::drive::range;
use crate::error::{Error, Kind, Result};
use crate::memory;
use crate::num::Sizes;
use crate::simd::Baseline;
use crate::sum::{BLOCK, ExactSum, sum_block_exactly};
use std::ops::Range;

/// Everything that multiplies the unreduced loss E, of shape (N, ...), on the way to the result.
#[derive(Clone, Debug)]
pub struct Weighting<'a> {
    /// The reduction.
    pub reduction: Reduction,
    /// The constructor's scalar weight.
    pub weight: f64,
    /// Weights, broadcast to E's shape: finite, >= 0. A zero removes its element, NaN included.
    pub sample_weight: Option<View<'a>>,
    /// The check of the weights, if they have not been checked yet.
    pub weight_check: Option<Box<Check<'a>>>,
    /// What the weighted means divide by the sum of, broadcast to E's shape; `sample_weight` if none.
    pub divisor_weight: Option<View<'a>>,
    /// The gradient with respect to the result, broadcast to E's shape.
    pub grad_output: Option<View<'a>>,
    /// Replaces the divisor of [`Reduction::Mean`] and [`Reduction::WeightedMean`].
    pub denominator: Option<f64>,
    /// The mean of nothing.
    pub empty: f64,
}

impl<'a> Weighting<'a> {
    /// No weights at all.
    pub fn new(reduction: Reduction) -> Self {
        Weighting {
            reduction,
            weight: 1.0,
            sample_weight: None,
            weight_check: None,
            divisor_weight: None,
            grad_output: None,
            denominator: None,
            empty: f64::NAN,
        }
    }

    /// Whether anything but numbers for the whole call multiplies or divides.
    pub(crate) fn has_arrays(&self) -> bool {
        let arrays = [&self.sample_weight, &self.divisor_weight, &self.grad_output];
        arrays.iter().any(|array| array.is_some())
    }

    /// The weights, checked and copied in the order of the drivers, for a loss that has its own use for them.
    pub(crate) fn take_weights(&mut self) -> Result<Option<Vec<f64>>> {
        if let Some(check) = self.weight_check.take() {
            check.all()?;
        }
        self.sample_weight.take().map(|w| w.to_vec()).transpose()
    }

    /// Whether the element of E, of this shape, at a position has no weight.
    pub(crate) fn removes(&self, position: usize, shape: &[usize]) -> bool {
        let weight = |view: &View<'_>| view.number(&unravel(position, shape)).to_f64();
        self.weight == 0.0 || self.sample_weight.as_ref().map(weight) == Some(0.0)
    }

    /// The weighting of the sums of E over one of its other axes, of `len` elements, if no weight differs along it.
    pub(crate) fn of_sums(&self, axis: usize, len: usize) -> Option<Self> {
        let without = |view: &Option<View<'a>>| match view {
            None => Some(None),
            Some(v) if len > 1 && v.strides()[axis] != 0 => None,
            Some(v) => Some(Some(v.clone().remove_axis(axis))),
        };
        let by_element = match self.reduction {
            Reduction::None => return None,
            Reduction::Mean | Reduction::WeightedMean => self.denominator.is_none(),
            Reduction::Sample | Reduction::SampleWeightedMean => true,
            _ => false,
        };
        Some(Weighting {
            weight: if by_element { self.weight / len as f64 } else { self.weight },
            sample_weight: without(&self.sample_weight)?,
            divisor_weight: without(&self.divisor_weight)?,
            grad_output: without(&self.grad_output)?,
            ..self.clone()
        })
    }

    /// The weighting of some rows of E, where `divisor` is that of all. What is a sum over all rows is one for each row.
    pub(crate) fn of_rows(&self, rows: &Range<usize>, divisor: &Divisor) -> Self {
        let of_rows = |view: &Option<View<'a>>| Some(view.clone()?.narrow(rows.clone()));
        let is_total = self.reduction.is_total();
        Weighting {
            reduction: if is_total { Reduction::SampleSum } else { self.reduction },
            weight: if is_total { self.weight / divisor.row(0) } else { self.weight },
            sample_weight: of_rows(&self.sample_weight),
            divisor_weight: of_rows(&self.divisor_weight),
            grad_output: of_rows(&self.grad_output),
            denominator: None,
            weight_check: None,
            ..*self
        }
    }

    /// Whether derivatives times the weights may leave the range of `f32`, though their sums may not.
    pub(crate) fn leaves_single(&self) -> bool {
        let [mut least, mut most] = [self.weight.abs(); 2];
        for view in [&self.sample_weight, &self.grad_output].into_iter().flatten() {
            let sizes = range::sizes(view);
            (least, most) = (least * sizes.least, most * sizes.most);
        }
        range::leaves_single(&Sizes { least, most, any_sign: false })
    }

    /// What each row's sum of w E is divided by.
    pub(crate) fn divisor(&self, shape: &[usize]) -> Result<Divisor> {
        let (n, d) = (shape[0] as f64, elements(&shape[1..]) as f64);
        Ok(Divisor::All(match self.reduction {
            Reduction::None | Reduction::SampleSum | Reduction::Sum => 1.0,
            Reduction::Sample => d,
            Reduction::Mean => self.denominator.unwrap_or(n * d),
            Reduction::BatchMean | Reduction::TargetMean => n,
            Reduction::WeightedMean if self.denominator.is_some() => {
                self.denominator.unwrap_or(1.0)
            }
            Reduction::WeightedMean if n * d > 0.0 => {
                let mut sum = ExactSum::default();
                self.row_weights(shape)?.into_iter().for_each(|row| sum.add(row));
                self.weight_divisor(sum.total())?
            }
            Reduction::SampleWeightedMean if d > 0.0 => {
                let mut divisors = self.row_weights(shape)?;
                for sum in &mut divisors {
                    *sum = self.weight_divisor(*sum)?;
                }
                return Ok(Divisor::Rows(divisors));
            }
            Reduction::WeightedMean | Reduction::SampleWeightedMean => 0.0,
        }))
    }

    /// The derivative of the result with respect to E where it is the same for all of E for want of weights.
    pub(crate) fn uniform_scale(&self, shape: &[usize]) -> Result<Option<f64>> {
        Ok(match self.divisor(shape)? {
            Divisor::All(divisor) if self.sample_weight.is_none() && self.grad_output.is_none() => {
                Some(self.weight / divisor)
            }
            _ => None,
        })
    }

    /// A sum of weights as a divisor: where nothing has weight, the mean and its derivatives are 0.
    fn weight_divisor(&self, sum: f64) -> Result<f64> {
        if !sum.is_finite() {
            self.weight_check.iter().try_for_each(|check| check.all())?;
            let detail = "expected weights whose sum a float64 has room for";
            return Err(Error::new(Kind::Weight, "sample_weight", detail));
        }
        Ok(if sum == 0.0 { f64::INFINITY } else { sum })
    }

    /// The sum of the weights of every row.
    fn row_weights(&self, shape: &[usize]) -> Result<Vec<f64>> {
        let (rows, cols) = (shape[0], elements(&shape[1..]));
        let Some(view) = self.divisor_weight.as_ref().or(self.sample_weight.as_ref()) else {
            return memory::filled(cols as f64, rows);
        };
        let grid = Grid::single(shape, view.strides());
        if grid.constant_in_row(0) {
            let mut sums = memory::filled(0.0, rows)?;
            grid.read(view, 0, Tile { row: 0, rows, col: 0, cols: 1 }, &mut sums);
            for sum in &mut sums {
                *sum *= cols as f64;
            }
            return Ok(sums);
        }
        let mut buffer = [0.0; BLOCK];
        memory::collect((0..rows).map(|row| {
            let mut sum = ExactSum::default();
            for col in (0..cols).step_by(BLOCK) {
                let tile = Tile { row, rows: 1, col, cols: (cols - col).min(BLOCK) };
                let block = grid.load(view, 0, tile, &mut buffer[..tile.cols]);
                sum.add(sum_block_exactly::<Baseline, _>(block));
            }
            sum.total()
        }))
    }
}

/// The divisor of a reduction: one for all rows, or one for each.
pub(crate) enum Divisor {
    All(f64),
    Rows(Vec<f64>),
}

impl Divisor {
    pub(crate) fn is_one_for_all(&self) -> bool {
        matches!(self, Divisor::All(_))
    }

    pub(crate) fn row(&self, row: usize) -> f64 {
        match self {
            Divisor::All(d) => *d,
            Divisor::Rows(d) => d[row],
        }
    }
}
