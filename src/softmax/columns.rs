//! The softmax of rows side by side in memory, column by column.

use crate::buffer::Buffer;
use crate::drive::columns::Columns;
use crate::error::Result;
use crate::math::Real;
use crate::memory;
use crate::num::DType;
use crate::simd::{self, Isa, Kernel};
use crate::softmax::extremes::bounded_below;
use crate::softmax::subnormal::depth;
use crate::softmax::{Softmax, is_near, possible, shifted_exp, tempered_exp};
use crate::sum::LongColumnSums;

/// The softmax of many rows, with the bits of [`Softmax`].
#[derive(Default)]
pub struct ColumnSoftmax<T: Real> {
    rows: usize,
    /// The largest logits; NaN is passed over.
    pub max: Buffer<T>,
    /// Where they stand first.
    pub at: Vec<u32>,
    /// The smallest logits; -infinity if any of the row is not finite.
    least: Buffer<T>,
    /// Whether all logits are finite and no further below the largest of their row than [`Real::NEAR`].
    near: bool,
    /// The sums of [`Softmax::others`].
    pub others: Buffer<f64>,
    /// Whether exp((x - max) / temperature) stands where the gradient goes.
    in_place: bool,
    /// Column by column if not, and if the gradient is wanted.
    exps: Buffer<T>,
    terms: Buffer<T>,
    sums: LongColumnSums,
}

impl<T: Real> ColumnSoftmax<T> {
    /// As [`Softmax::tempered`], for the first vector of each row.
    pub fn fill<S: Isa>(
        &mut self,
        columns: &mut Columns<'_, '_, T>,
        temperature: f64,
    ) -> Result<()> {
        simd::dispatch(S::LEVEL, Fill { softmax: self, columns, temperature })
    }

    #[inline(always)]
    fn find_extremes<S: Isa>(&mut self, columns: &mut Columns<'_, '_, T>) -> Result<()> {
        let (rows, elements) = (columns.rows(), columns.elements());
        self.at.clear();
        memory::grow(&mut self.at, rows, 0)?;
        let (max, least) = (self.max.sized(rows)?, self.least.sized(rows)?);
        max.fill(-T::INFINITY);
        least.fill(T::INFINITY);
        let mut reader = columns.read();
        for c in 0..elements {
            let [x] = reader.column(c)?;
            let rows = max.iter_mut().zip(&mut *least).zip(&mut self.at).zip(x);
            for (((max, least), at), &x) in rows {
                *at = if x > *max { c as u32 } else { *at };
                *max = x.max(*max);
                // An element that is not finite makes it NaN, which stays.
                *least = x.mul_add::<S>(T::ZERO, x.min(*least));
            }
        }
        self.near = true;
        for (least, &max) in least.iter_mut().zip(&*max) {
            *least = bounded_below(*least);
            self.near &= is_near(max, *least);
        }
        Ok(())
    }

    /// Makes a column of the gradient hold the exponentials.
    #[inline(always)]
    pub fn fill_exps(&self, column: usize, grad: &mut [T]) {
        if !self.in_place {
            grad.copy_from_slice(&self.exps[column * self.rows..][..self.rows]);
        }
    }

    /// The softmax of one row.
    #[inline(always)]
    pub fn row(&self, row: usize) -> Softmax<T> {
        Softmax {
            max: self.max[row],
            at: self.at[row] as usize,
            least: self.least[row],
            others: self.others[row],
        }
    }

    /// Whether a row has a logit at least as far below the largest as its number in `first`, and at most `last`.
    #[inline(never)]
    pub fn reaches(&self, columns: &mut Columns<'_, '_, T>, first: &[T], last: T) -> Result<bool> {
        if first.iter().all(|&first| first == T::INFINITY) {
            return Ok(false);
        }
        let elements = columns.elements();
        let (mut found, mut reader) = (T::ZERO, columns.read());
        for c in 0..elements {
            let [x] = reader.column(c)?;
            for ((&x, &max), &first) in x.iter().zip(&*self.max).zip(first) {
                found = if depth(max, x, last) >= first { T::ONE } else { found };
            }
        }
        Ok(found > T::ZERO)
    }
}

/// [`ColumnSoftmax::fill`].
struct Fill<'f, 'b, 'a, T: Real> {
    softmax: &'f mut ColumnSoftmax<T>,
    columns: &'f mut Columns<'b, 'a, T>,
    temperature: f64,
}

impl<T: Real> Kernel for Fill<'_, '_, '_, T> {
    type Output = Result<()>;
    #[inline(always)]
    fn run<S: Isa>(self) -> Result<()> {
        let Fill { softmax, columns, temperature } = self;
        let (rows, elements) = (columns.rows(), columns.elements());
        softmax.rows = rows;
        softmax.find_extremes::<S>(columns)?;
        softmax.in_place = columns.keeps_gradient();
        let keeps = columns.wants_first() && !softmax.in_place;
        let ColumnSoftmax { max, at, near, others, exps, terms, sums, in_place, .. } = softmax;
        let (max, at, near) = (&max[..rows], &at[..rows], *near);
        let terms = terms.sized(rows)?;
        let exps = exps.sized(if keeps { rows * elements } else { rows })?;
        sums.start(elements, rows, T::DTYPE == DType::F64)?;
        let mut writer = columns.write();
        for c in 0..elements {
            let own = &mut exps[if keeps { c * rows } else { 0 }..][..rows];
            let ([x], [grad]) = writer.column(c)?;
            let exps = grad.filter(|_| *in_place).unwrap_or(own);
            if temperature == 1.0 && near {
                for ((e, &x), &max) in exps.iter_mut().zip(x).zip(max) {
                    *e = x.exp_near::<S>(max);
                }
            } else if temperature == 1.0 {
                for ((e, &x), &max) in exps.iter_mut().zip(x).zip(max) {
                    *e = shifted_exp::<S, T>(x, max);
                }
            } else {
                for ((e, &x), &max) in exps.iter_mut().zip(x).zip(max) {
                    *e = tempered_exp::<S, T>(x, max, temperature);
                }
            }
            for ((term, &e), &at) in terms.iter_mut().zip(&*exps).zip(at) {
                *term = if at == c as u32 { T::ZERO } else { e };
            }
            sums.add::<S, _>(terms)?;
        }
        for (r, others) in others.sized(rows)?.iter_mut().enumerate() {
            *others = possible(max[r], sums.total(r));
        }
        Ok(())
    }
}
