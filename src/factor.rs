//! What the elements of a tile are multiplied by: weights, the gradient from outside, divisors.
//!
//! Factors act in f64, whatever the type of computation: 1e39 and 1e-50 are ordinary weights of `f32` losses. A weight
//! of exactly 0 removes its element, whatever the element, the outer gradient or the divisor hold.

use crate::domain::Domain;
use crate::error::Result;
use crate::grid::{Grid, Tile};
use crate::operand::{Input, sized};
use crate::real::Real;
use crate::weight::{Divisor, Weighting};

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
    Elements(&'a [f64]),
}

/// Scratch for the factors of a tile.
#[derive(Default)]
pub(crate) struct Buffers {
    weight: Vec<f64>,
    grad_output: Vec<f64>,
    scale: Vec<f64>,
    products: Vec<f64>,
}

/// The factors of a run, lined up.
pub(crate) struct Factors<'v, 'a> {
    weight: f64,
    sample_weight: Option<Input<'v, 'a>>,
    grad_output: Option<Input<'v, 'a>>,
    pub divisor: Divisor,
    weighting: &'v Weighting<'a>,
}

impl<'v, 'a> Factors<'v, 'a> {
    /// Adds them to a grid of operands of shape `shape`.
    pub fn new(grid: &mut Grid, weighting: &'v Weighting<'a>, shape: &[usize]) -> Result<Self> {
        let mut input = |view: &'v Option<_>| view.as_ref().map(|v| Input::input(grid, v));
        Ok(Factors {
            weight: weighting.weight,
            sample_weight: input(&weighting.sample_weight),
            grad_output: input(&weighting.grad_output),
            divisor: weighting.divisor(shape)?,
            weighting,
        })
    }

    /// Whether weights are given, so that elements may be out.
    pub fn is_weighted(&self) -> bool {
        self.sample_weight.is_some()
    }

    /// The weights of a tile, checked.
    #[inline(always)]
    pub fn weights<'s>(
        &'s self,
        grid: &Grid,
        tile: Tile,
        buffer: &'s mut Vec<f64>,
    ) -> Result<Factor<'s>> {
        let weights = load(self.sample_weight.as_ref(), grid, tile, buffer)?;
        if let Some(check) = &self.weighting.weight_check {
            let fine = match weights {
                Factor::One(weight) => Domain::Weight.holds(weight),
                Factor::Rows(weights) | Factor::Elements(weights) => {
                    Domain::Weight.all_hold(weights)
                }
            };
            if !fine {
                // No weight is exempt, so that the first wrong one of all is the one to name.
                check.all()?;
            }
        }
        Ok(weights)
    }

    /// What the derivatives of a tile are multiplied by, given its weights.
    #[inline(always)]
    pub fn scale<'s>(
        &self,
        grid: &Grid,
        tile: Tile,
        weights: Factor<'_>,
        grad_output: &mut Vec<f64>,
        scale: &'s mut Vec<f64>,
    ) -> Result<Factor<'s>> {
        let outer = load(self.grad_output.as_ref(), grid, tile, grad_output)?;
        if self.weight == 0.0 {
            return Ok(Factor::One(0.0));
        }
        let share = |row: usize| self.weight / self.divisor.row(row);
        if let (Factor::One(weight), Factor::One(outer), Divisor::All(_)) =
            (weights, outer, &self.divisor)
        {
            return Ok(Factor::One((share(0) * outer).weighted(weight)));
        }
        if !matches!(weights, Factor::Elements(_)) && !matches!(outer, Factor::Elements(_)) {
            let scale = sized(scale, tile.rows)?;
            for (r, scale) in scale.iter_mut().enumerate() {
                *scale = (share(tile.row + r) * outer.at(r)).weighted(weights.at(r));
            }
            return Ok(Factor::Rows(scale));
        }
        let scale = sized(scale, tile.len())?;
        for (r, scale) in scale.chunks_exact_mut(tile.cols).enumerate() {
            let share = share(tile.row + r);
            match (weights.row(r, tile.cols), outer.row(r, tile.cols)) {
                (Factor::Elements(weights), Factor::Elements(outer)) => {
                    for ((scale, &weight), &outer) in scale.iter_mut().zip(weights).zip(outer) {
                        *scale = (share * outer).weighted(weight);
                    }
                }
                (Factor::Elements(weights), outer) => {
                    let share = share * outer.at(0);
                    for (scale, &weight) in scale.iter_mut().zip(weights) {
                        *scale = share.weighted(weight);
                    }
                }
                (weight, outer) => {
                    let weight = weight.at(0);
                    for (c, scale) in scale.iter_mut().enumerate() {
                        *scale = (share * outer.at(c)).weighted(weight);
                    }
                }
            }
        }
        Ok(Factor::Elements(scale))
    }
}

impl Buffers {
    /// The four parts.
    pub fn split(&mut self) -> [&mut Vec<f64>; 4] {
        [&mut self.weight, &mut self.grad_output, &mut self.scale, &mut self.products]
    }
}

impl<'a> Factor<'a> {
    /// The factor that comes i-th.
    #[inline(always)]
    pub fn at(&self, i: usize) -> f64 {
        match self {
            Factor::One(factor) => *factor,
            Factor::Rows(factors) | Factor::Elements(factors) => factors[i],
        }
    }

    /// The factors of a row.
    #[inline(always)]
    pub fn row(&self, row: usize, cols: usize) -> Factor<'a> {
        match self {
            Factor::Elements(factors) => Factor::Elements(&factors[row * cols..][..cols]),
            factors => Factor::One(factors.at(row)),
        }
    }

    /// Whether the factor of an element is 0.
    pub fn removes(&self, index: usize, cols: usize) -> bool {
        0.0 == match self {
            Factor::One(factor) => *factor,
            Factor::Rows(factors) => factors[index / cols],
            Factor::Elements(factors) => factors[index],
        }
    }

    /// One factor that the type of computation can hold, to be multiplied in at once.
    pub fn as_one<T: Real>(&self) -> Option<T> {
        match *self {
            Factor::One(factor) if T::fits(factor) => Some(T::from_f64(factor)),
            _ => None,
        }
    }

    /// Multiplies a tile of rows of `cols` elements, and by another number for all.
    #[inline(always)]
    pub fn apply<T: Real>(&self, x: &mut [T], cols: usize, times: f64) {
        match *self {
            Factor::One(factor) => multiply(x, factor * times),
            Factor::Rows(factors) => {
                for (x, &factor) in x.chunks_exact_mut(cols).zip(factors) {
                    multiply(x, factor * times);
                }
            }
            Factor::Elements(factors) => {
                for (x, &factor) in x.iter_mut().zip(factors) {
                    *x = T::from_f64(x.to_f64().weighted(factor * times));
                }
            }
        }
    }

    /// The products of a tile with the factors, in f64.
    #[inline(always)]
    pub fn products<T: Real>(&self, x: &[T], cols: usize, products: &mut [f64]) {
        let rows = products.chunks_exact_mut(cols).zip(x.chunks_exact(cols)).enumerate();
        for (r, (products, x)) in rows {
            match self.row(r, cols) {
                Factor::Elements(factors) => {
                    for ((product, x), &factor) in products.iter_mut().zip(x).zip(factors) {
                        *product = x.to_f64().weighted(factor);
                    }
                }
                factor => {
                    let factor = factor.at(0);
                    for (product, x) in products.iter_mut().zip(x) {
                        *product = x.to_f64().weighted(factor);
                    }
                }
            }
        }
    }
}

/// The factors of a tile: by rows where they are constant in each and rows are long.
#[inline(always)]
fn load<'s>(
    input: Option<&'s Input<'_, '_>>,
    grid: &Grid,
    tile: Tile,
    buffer: &'s mut Vec<f64>,
) -> Result<Factor<'s>> {
    let Some(input) = input else { return Ok(Factor::One(1.0)) };
    let column = Tile { col: 0, cols: 1, ..tile };
    let constant_in_row = grid.constant_in_row(input.k);
    if constant_in_row && (grid.constant_in_column(input.k) || tile.rows == 1) {
        let mut factor = [0.0];
        grid.read(input.view, input.k, Tile { rows: 1, ..column }, &mut factor);
        Ok(Factor::One(factor[0]))
    } else if constant_in_row && tile.cols >= SHORT {
        Ok(Factor::Rows(input.tile(grid, column, buffer)?))
    } else {
        Ok(Factor::Elements(input.tile(grid, tile, buffer)?))
    }
}

/// Multiplies in the type of computation if that can hold the factor, else in f64.
#[inline(always)]
fn multiply<T: Real>(x: &mut [T], factor: f64) {
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
        for x in x {
            *x = T::from_f64(x.to_f64() * factor);
        }
    }
}
