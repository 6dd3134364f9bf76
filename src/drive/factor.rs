//! What the elements of a tile are multiplied by: weights, the gradient from outside, divisors.
//!
//! Factors act in f64, whatever the type of computation: 1e39 and 1e-50 are ordinary weights of `f32` losses. A weight
//! of exactly 0 removes its element, whatever the element, the outer gradient or the divisor hold. A factor that the type
//! of computation holds is rounded to it once, so that the bits of a product do not depend on how factors are laid out.

use crate::array::{Grid, Tile};
use crate::buffer::Buffer;
use crate::drive::domain::Domain;
use crate::drive::operand::Input;
use crate::drive::scale::multiply_wide;
use crate::drive::weight::{Divisor, Weighting};
use crate::error::Result;
use crate::math::Real;
use crate::num::DType;
use crate::num::Float;
use crate::num::Sizes;
use crate::simd::{self, Isa, Kernel, Level};

/// Rows shorter than this are multiplied element by element.
const SHORT: usize = 64;

/// A factor of every element of a tile.
#[derive(Clone, Copy)]
pub(crate) enum Factor<'a> {
    /// One for all.
    One(f64),
    /// One for each row.
    Rows(&'a [f64]),
    /// One for each element.
    Singles(Elements<'a, f32>),
    /// One for each element.
    Doubles(Elements<'a, f64>),
}

/// A factor for each element of a tile, and the extreme sizes of those of the whole tile.
#[derive(Clone, Copy)]
pub(crate) struct Elements<'a, F> {
    factors: &'a [F],
    sizes: Sizes<F>,
}

impl<'a, F: Real> Elements<'a, F> {
    #[inline(always)]
    fn new(factors: &'a [F]) -> Self {
        Elements { factors, sizes: F::sizes(factors) }
    }

    /// The factors themselves.
    pub fn factors(&self) -> &'a [F] {
        self.factors
    }

    /// Those of a range.
    #[inline(always)]
    fn part(&self, start: usize, len: usize) -> Self {
        Elements { factors: &self.factors[start..][..len], ..*self }
    }

    #[inline(always)]
    fn are_weights<S: Isa>(&self) -> bool {
        let Sizes { most, any_sign, .. } = self.sizes;
        most < F::INFINITY && (!any_sign || Domain::Weight.all_hold(S::LEVEL, self.factors))
    }
}

/// Calls `$body` with the slice of the factors of single elements, and `$other` where there is none.
macro_rules! with_elements {
    ($factor:expr, $factors:ident => $body:expr, $other:pat => $otherwise:expr) => {
        match $factor {
            Factor::Singles(Elements { factors: $factors, .. }) => $body,
            Factor::Doubles(Elements { factors: $factors, .. }) => $body,
            $other => $otherwise,
        }
    };
}

/// Scratch for the factors of a tile.
#[derive(Default)]
pub(crate) struct FactorBuffers {
    weights: Loaded,
    grad_output: Loaded,
    scale: Buffer<f64>,
}

/// Scratch for factors that memory does not hold as a slice.
#[derive(Default)]
struct Loaded {
    singles: Buffer<f32>,
    doubles: Buffer<f64>,
}

/// Factors of the elements of E, lined up.
struct Given<'v, 'a> {
    input: Input<'v, 'a>,
    /// One for each row of the grid, where they are constant in each and rows are long.
    rows: Buffer<f64>,
}

/// The factors of a run, lined up.
pub(crate) struct Factors<'v, 'a> {
    weight: f64,
    sample_weight: Option<Given<'v, 'a>>,
    grad_output: Option<Given<'v, 'a>>,
    pub divisor: Divisor,
    weighting: &'v Weighting<'a>,
}

impl<'v, 'a> Factors<'v, 'a> {
    /// Adds them to a grid of operands of shape `shape`.
    pub fn new(grid: &mut Grid, weighting: &'v Weighting<'a>, shape: &[usize]) -> Result<Self> {
        let mut input = |view: &'v Option<_>| {
            view.as_ref().map(|v| Given { input: Input::input(grid, v), rows: Buffer::new() })
        };
        Ok(Factors {
            weight: weighting.weight,
            sample_weight: input(&weighting.sample_weight),
            grad_output: input(&weighting.grad_output),
            divisor: weighting.divisor(shape)?,
            weighting,
        })
    }

    /// Reads what is one factor for each row, now that the grid has all its operands.
    pub fn read_rows(&mut self, grid: &Grid) -> Result<()> {
        let column = Tile { row: 0, rows: grid.rows, col: 0, cols: 1 };
        for Given { input, rows } in
            [&mut self.sample_weight, &mut self.grad_output].into_iter().flatten()
        {
            let by_row = grid.constant_in_row(input.k) && !grid.constant_in_column(input.k);
            if by_row && grid.cols >= SHORT {
                grid.read(input.view, input.k, column, rows.sized(grid.rows)?);
            }
        }
        Ok(())
    }

    /// Whether weights are given, so that elements may be out.
    pub fn is_weighted(&self) -> bool {
        self.sample_weight.is_some()
    }

    /// Whether no weight differs within a row.
    pub fn weighs_rows(&self, grid: &Grid) -> bool {
        self.sample_weight.as_ref().is_none_or(|given| grid.constant_in_row(given.input.k))
    }

    /// The weights of a tile, checked, and what the derivatives are multiplied by.
    pub fn of_tile<'s>(
        &'s self,
        level: Level,
        grid: &Grid,
        tile: Tile,
        buffers: &'s mut FactorBuffers,
    ) -> Result<(Factor<'s>, TileScale<'s>)> {
        simd::dispatch(level, OfTile { factors: self, grid, tile, buffers })
    }

    #[inline(always)]
    fn scale<'s>(
        &self,
        tile: Tile,
        weights: Factor<'s>,
        outer: Factor<'_>,
        scale: &'s mut Buffer<f64>,
    ) -> Result<TileScale<'s>> {
        if self.weight == 0.0 {
            return Ok(TileScale { factor: Factor::One(0.0), times: 1.0 });
        }
        let share = |row: usize| self.weight / self.divisor.row(row);
        if let (Factor::One(outer), Divisor::All(_)) = (outer, &self.divisor) {
            return Ok(TileScale { factor: weights, times: share(0) * outer });
        }
        let by_row = |factor: &Factor<'_>| matches!(factor, Factor::One(_) | Factor::Rows(_));
        if by_row(&weights) && by_row(&outer) {
            let scale = scale.sized(tile.rows)?;
            for (r, scale) in scale.iter_mut().enumerate() {
                *scale = (share(tile.row + r) * outer.at(r)).weighted(weights.at(r));
            }
            return Ok(TileScale { factor: Factor::Rows(scale), times: 1.0 });
        }
        let scale = scale.sized(tile.len())?;
        for (r, scale) in scale.chunks_exact_mut(tile.cols).enumerate() {
            let share = share(tile.row + r);
            outer.row(r, tile.cols).copy_to(scale);
            for scale in scale.iter_mut() {
                *scale *= share;
            }
            weights.row(r, tile.cols).weigh(scale);
        }
        Ok(TileScale { factor: Factor::Doubles(Elements::new(scale)), times: 1.0 })
    }
}

/// [`Factors::of_tile`].
struct OfTile<'s, 'g, 'v, 'a> {
    factors: &'s Factors<'v, 'a>,
    grid: &'g Grid,
    tile: Tile,
    buffers: &'s mut FactorBuffers,
}

impl<'s> Kernel for OfTile<'s, '_, '_, '_> {
    type Output = Result<(Factor<'s>, TileScale<'s>)>;
    #[inline(always)]
    fn run<S: Isa>(self) -> Self::Output {
        let OfTile { factors, grid, tile, buffers } = self;
        let FactorBuffers { weights, grad_output, scale } = buffers;
        let weights = load(factors.sample_weight.as_ref(), grid, tile, weights)?;
        if let Some(check) = &factors.weighting.weight_check
            && !weights.all_are_weights::<S>()
        {
            // No weight is exempt, so that the first wrong one of all is the one to name.
            check.all()?;
        }
        let outer = load(factors.grad_output.as_ref(), grid, tile, grad_output)?;
        Ok((weights, factors.scale(tile, weights, outer, scale)?))
    }
}

/// A factor of every element, times a number for all.
#[derive(Clone, Copy)]
pub(crate) struct TileScale<'a> {
    factor: Factor<'a>,
    times: f64,
}

impl TileScale<'_> {
    /// One factor for all that the type of computation can hold, to be multiplied in at once. Not inlined:
    /// the compiler would multiply before it looks which kind of factor there is, and the bits of a pointer are a subnormal
    /// number, whose product takes a hundred cycles.
    #[inline(never)]
    pub fn as_one<T: Real>(&self) -> Option<T> {
        match self.factor {
            Factor::One(factor) => {
                Some(self.times.weighted(factor)).filter(|&scale| T::fits(scale)).map(T::from_f64)
            }
            _ => None,
        }
    }

    /// One factor for each row, where it is that.
    pub fn of_rows(&self) -> Option<impl Iterator<Item = f64>> {
        let TileScale { factor: Factor::Rows(factors), times } = *self else { return None };
        Some(factors.iter().map(move |&factor| times.weighted(factor)))
    }

    /// Multiplies a tile of rows of `cols` elements.
    pub fn apply<S: Isa, T: Real>(&self, x: &mut [T], cols: usize) {
        self.factor.apply::<S, T>(x, cols, self.times);
    }
}

impl<'a> Factor<'a> {
    /// The factor that comes i-th.
    #[inline(always)]
    pub fn at(&self, i: usize) -> f64 {
        match self {
            Factor::One(factor) => *factor,
            Factor::Rows(factors) | Factor::Doubles(Elements { factors, .. }) => factors[i],
            Factor::Singles(elements) => f64::from(elements.factors[i]),
        }
    }

    /// The factor of the first element of a row.
    #[inline(always)]
    pub fn of_row(&self, row: usize, cols: usize) -> f64 {
        let first = with_elements!(self, _factors => row * cols, _ => row);
        self.at(first)
    }

    /// The factors of a row.
    #[inline(always)]
    fn row(&self, row: usize, cols: usize) -> Factor<'a> {
        match self {
            Factor::Singles(elements) => Factor::Singles(elements.part(row * cols, cols)),
            Factor::Doubles(elements) => Factor::Doubles(elements.part(row * cols, cols)),
            factors => Factor::One(factors.at(row)),
        }
    }

    /// Whether the factor of an element is 0.
    pub fn removes(&self, index: usize, cols: usize) -> bool {
        let i = if let Factor::Rows(_) = self { index / cols } else { index };
        self.at(i) == 0.0
    }

    #[inline(always)]
    fn all_are_weights<S: Isa>(&self) -> bool {
        match self {
            Factor::One(weight) => Domain::Weight.holds(*weight),
            Factor::Rows(weights) => Domain::Weight.all_hold(S::LEVEL, weights),
            Factor::Singles(weights) => weights.are_weights::<S>(),
            Factor::Doubles(weights) => weights.are_weights::<S>(),
        }
    }

    /// Copies the factors of a row.
    #[inline(always)]
    fn copy_to(&self, row: &mut [f64]) {
        with_elements!(*self, factors => {
            for (x, factor) in row.iter_mut().zip(factors) {
                *x = factor.to_f64();
            }
        }, factor => row.fill(factor.at(0)));
    }

    /// Multiplies numbers in f64 by the factors of a row, of which a 0 leaves nothing.
    #[inline(always)]
    fn weigh(&self, row: &mut [f64]) {
        with_elements!(*self, factors => {
            for (x, factor) in row.iter_mut().zip(factors) {
                *x = x.weighted(factor.to_f64());
            }
        }, factor => {
            let factor = factor.at(0);
            for x in row {
                *x = x.weighted(factor);
            }
        });
    }

    /// Multiplies a tile of rows of `cols` elements, and by another number for all.
    pub fn apply<S: Isa, T: Real>(&self, x: &mut [T], cols: usize, times: f64) {
        simd::dispatch(S::LEVEL, Apply { factor: *self, x, cols, times });
    }

    /// The products of a tile with the factors, in f64.
    pub fn products_of<'b, S: Isa, T: Real>(
        &self,
        x: &[T],
        tile: Tile,
        products: &'b mut Buffer<f64>,
    ) -> Result<&'b [f64]> {
        let products = products.sized(tile.len())?;
        simd::dispatch(S::LEVEL, WeightedSum { factor: *self, x, cols: tile.cols, out: products });
        Ok(products)
    }
}

/// [`Factor::apply`].
struct Apply<'a, 'x, T> {
    factor: Factor<'a>,
    x: &'x mut [T],
    cols: usize,
    times: f64,
}

impl<T: Real> Kernel for Apply<'_, '_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Isa>(self) {
        let Apply { factor, x, cols, times } = self;
        match factor {
            Factor::One(factor) => multiply(x, times.weighted(factor)),
            Factor::Rows(factors) => {
                for (x, &factor) in x.chunks_exact_mut(cols).zip(factors) {
                    multiply(x, times.weighted(factor));
                }
            }
            Factor::Singles(factors) => multiply_each(x, factors, times),
            Factor::Doubles(factors) => multiply_each(x, factors, times),
        }
    }
}

/// [`Factor::products_of`].
struct WeightedSum<'a, 'x, T> {
    factor: Factor<'a>,
    x: &'x [T],
    cols: usize,
    out: &'x mut [f64],
}

impl<T: Real> Kernel for WeightedSum<'_, '_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Isa>(self) {
        let WeightedSum { factor, x, cols, out } = self;
        with_elements!(factor, factors => {
            for ((product, x), factor) in out.iter_mut().zip(x).zip(factors) {
                *product = x.to_f64().weighted(factor.to_f64());
            }
        }, _ => {
            let rows = out.chunks_exact_mut(cols).zip(x.chunks_exact(cols));
            for (r, (products, x)) in rows.enumerate() {
                let factor = factor.at(r);
                for (product, x) in products.iter_mut().zip(x) {
                    *product = x.to_f64().weighted(factor);
                }
            }
        });
    }
}

/// The factors of a tile.
#[inline(always)]
fn load<'s>(
    given: Option<&'s Given<'_, '_>>,
    grid: &Grid,
    tile: Tile,
    buffers: &'s mut Loaded,
) -> Result<Factor<'s>> {
    let Some(Given { input, rows }) = given else { return Ok(Factor::One(1.0)) };
    Ok(if let Some(rows) = rows.get(tile.row..tile.row + tile.rows) {
        Factor::Rows(rows)
    } else if grid.constant_in_row(input.k) && grid.constant_in_column(input.k) {
        let mut factor = [0.0];
        grid.read(input.view, input.k, Tile { rows: 1, cols: 1, ..tile }, &mut factor);
        Factor::One(factor[0])
    } else if input.view.dtype() == DType::F32 {
        Factor::Singles(Elements::new(input.tile(grid, tile, &mut buffers.singles)?))
    } else {
        Factor::Doubles(Elements::new(input.tile(grid, tile, &mut buffers.doubles)?))
    })
}

/// Multiplies in the type of computation if that can hold the factor, else in f64.
#[inline(always)]
pub(crate) fn multiply<T: Real>(x: &mut [T], factor: f64) {
    if factor == 0.0 {
        x.fill(T::ZERO);
    } else if T::fits(factor) {
        let factor = T::from_f64(factor);
        if factor != T::ONE {
            for x in x {
                *x *= factor;
            }
        }
    } else {
        multiply_wide(x, factor);
    }
}

/// [`multiply`] by a factor of each element, and by another number for all.
#[inline(always)]
fn multiply_each<T: Real, F: Real>(x: &mut [T], elements: Elements<'_, F>, times: f64) {
    let Elements { factors, sizes: Sizes { least, most, .. } } = elements;
    // A product with any factor lies between those with the extreme ones.
    if [least, most].iter().all(|size| T::fits(times.weighted(size.to_f64()))) {
        // Where all factors are 0 the other number may be infinite.
        let times = if most == F::ZERO { 0.0 } else { times };
        for (x, factor) in x.iter_mut().zip(factors) {
            *x = x.weighted(T::from_f64(times * factor.to_f64()));
        }
    } else {
        multiply_one_by_one(x, factors, times);
    }
}

/// [`multiply_each`] where some product does not fit, which is rare.
#[cold]
#[inline(never)]
fn multiply_one_by_one<T: Real, F: Real>(x: &mut [T], factors: &[F], times: f64) {
    for (x, factor) in x.iter_mut().zip(factors) {
        multiply(std::slice::from_mut(x), times.weighted(factor.to_f64()));
    }
}
