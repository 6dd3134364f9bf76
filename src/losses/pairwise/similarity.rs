//! Similarities of all vectors of one batch to all of another, by products of matrices.
//!
//! A squared distance is `|a|^2 + |b|^2 - 2 a b`, and the gradients are `(sum of c) a - sum of c b`. Both cancel where vectors
//! lie close together and far from 0. So vectors are taken relative to a centre that is somewhere among them, and pairs
//! whose distance is less than half of `|a|^2 + |b|^2` even then are computed one by one from their differences. So are
//! pairs of vectors too large for squares, or with elements that are not finite.
//!
//! Accuracy: what is added one after another are the [`super::product::CHAIN`] terms of a chain, and two of these, which
//! leave a product within 33 ulp of the sum of its absolute terms. Roundings do not all go one way: of the least distances
//! that a product is taken for they are 2 ulp, and 5 at the most.

use super::marks::Marks;
use super::product::{BlockSums, CHAIN, Factors, PartialProduct, ProductRoom, RIGHT};
use crate::array::{Grid, Tile, View};
use crate::buffer::Buffer;
use crate::error::Result;
use crate::math::Real;
use crate::memory;
use crate::scratch::Reusable;
use crate::simd::{self, Isa, Kernel, Level};
use crate::sum::{PairwiseSum, sum_block_exactly};
use crate::threads;
use std::ops::Range;

/// Elements of two vectors that are compared at once, where they are compared by themselves.
const COMPARED: usize = 256;
/// Squares that are summed side by side.
const SQUARE_LANES: usize = 16;
/// The most lanes of a panel.
const MOST_LANES: usize = 64;

/// What two vectors are compared by: a sum of one term for each of their elements.
#[derive(Clone, Copy, PartialEq)]
pub enum Similarity {
    /// The sum of (a - b)^2.
    SquaredDistance,
    /// The sum of a b.
    DotProduct,
}

impl Similarity {
    /// What sums of slopes times [`Similarity::toward`] are to be multiplied by to be gradients.
    pub fn factor(self) -> f64 {
        match self {
            Similarity::SquaredDistance => -2.0,
            Similarity::DotProduct => 1.0,
        }
    }

    /// Whether a similarity by the product of two vectors may have lost its digits, and the sums of their squares count.
    pub fn cancels(self) -> bool {
        self == Similarity::SquaredDistance
    }

    /// The derivative of a term with respect to the element of the own vector, but for the factor.
    #[inline(always)]
    pub fn toward(self, own: f64, other: f64) -> f64 {
        match self {
            Similarity::SquaredDistance => other - own,
            Similarity::DotProduct => other,
        }
    }
}

/// Both batches, to read.
pub(super) struct Batches<'a, 'b> {
    pub views: &'a [View<'b>; 2],
    /// What is subtracted from the vectors, if it is not 0.
    pub centre: &'a [f64],
    /// With vectors as rows.
    pub grids: [Grid; 2],
    /// What they are compared by.
    pub similarity: Similarity,
}

impl<'a, 'b> Batches<'a, 'b> {
    /// Batches of vectors, the batch axis first.
    pub fn new(similarity: Similarity, views: &'a [View<'b>; 2], centre: &'a [f64]) -> Self {
        let grids = views.each_ref().map(|view| Grid::single(view.shape(), view.strides()));
        Batches { views, centre, grids, similarity }
    }

    /// The shape of the matrix of pairs.
    pub fn pairs(&self) -> [usize; 2] {
        self.views.each_ref().map(|view| view.shape()[0])
    }

    /// Some elements of a vector, if need be in a buffer.
    #[inline(always)]
    pub fn load<'s, T: Real>(
        &'s self,
        [batch, vector]: [usize; 2],
        elements: &Range<usize>,
        buffer: &'s mut [T],
    ) -> &'s [T] {
        let tile = Tile { row: vector, rows: 1, col: elements.start, cols: elements.len() };
        self.grids[batch].load(&self.views[batch], 0, tile, &mut buffer[..elements.len()])
    }

    /// The similarities of a tile of rows. Pairs that had to be computed one by one are marked, if they cancel.
    pub fn similarities<T: Real>(
        &self,
        level: Level,
        tile: Tile,
        out: Out<'_, T>,
        marks: Option<&Marks>,
        products: &mut ProductScratch<T>,
    ) -> Result<()> {
        let ([_, m], d) = (self.pairs(), self.grids[0].cols);
        let ProductScratch { room, squares: [own, others], are_alone } = products;
        let (own, others) = (own.sized(tile.rows)?, others.sized(m)?);
        own.fill(0.0);
        others.fill(0.0);
        memory::grow(are_alone, m.min(RIGHT), false)?;
        let mut factors = VectorFactors {
            batches: self,
            first: tile.row,
            own,
            others,
            out,
            marks,
            are_alone,
            buffers: [[T::ZERO; COMPARED]; 2],
            terms: [0.0; COMPARED],
        };
        let tile = Tile { col: 0, cols: m, ..tile };
        PartialProduct { tile, along: 0..d, factors: &mut factors, room }.compute(level)
    }

    /// The similarity of two vectors by themselves, in f64.
    fn compare<T: Real>(
        &self,
        level: Level,
        [first, second]: [usize; 2],
        [a, b]: &mut [[T; COMPARED]; 2],
        terms: &mut [f64; COMPARED],
    ) -> f64 {
        let d = self.grids[0].cols;
        let mut sum = PairwiseSum::default();
        for start in (0..d).step_by(COMPARED) {
            let part = start..d.min(start + COMPARED);
            let (a, b) = (self.load([0, first], &part, a), self.load([1, second], &part, b));
            let (similarity, terms) = (self.similarity, &mut terms[..part.len()]);
            sum.add(simd::dispatch(level, SumOfTerms { similarity, a, b, terms }));
        }
        sum.total()
    }
}

/// Makes similarities of the products of one vector with others, and says which of them are to be computed by themselves:
/// those that may have lost their digits, or that are no numbers. Whether there are any.
struct OfProducts<'r> {
    similarity: Similarity,
    x: &'r mut [f64],
    /// The sums of squares.
    own: f64,
    others: &'r [f64],
    are_alone: &'r mut [bool],
}

impl Kernel for OfProducts<'_> {
    type Output = bool;
    #[inline(always)]
    fn run<S: Isa>(self) -> bool {
        let OfProducts { similarity, x, own, others, are_alone } = self;
        let mut any = false;
        match similarity {
            Similarity::SquaredDistance => {
                for ((x, other), is_alone) in x.iter_mut().zip(others).zip(are_alone) {
                    let squares = own + other;
                    *x = squares - 2.0 * *x;
                    *is_alone = !(*x > 0.5 * squares && *x < f64::INFINITY);
                    any |= *is_alone;
                }
            }
            Similarity::DotProduct => {
                for (x, is_alone) in x.iter().zip(are_alone) {
                    *is_alone = !x.is_finite();
                    any |= *is_alone;
                }
            }
        }
        any
    }
}

/// The sum of the terms of a part of two vectors.
struct SumOfTerms<'r, T> {
    similarity: Similarity,
    a: &'r [T],
    b: &'r [T],
    terms: &'r mut [f64],
}

impl<T: Real> Kernel for SumOfTerms<'_, T> {
    type Output = f64;
    #[inline(always)]
    fn run<S: Isa>(self) -> f64 {
        let SumOfTerms { similarity, a, b, terms } = self;
        for ((term, a), b) in terms.iter_mut().zip(a).zip(b) {
            let (a, b) = (a.to_f64(), b.to_f64());
            *term = match similarity {
                Similarity::SquaredDistance => (a - b) * (a - b),
                Similarity::DotProduct => a * b,
            };
        }
        sum_block_exactly::<S, f64>(terms)
    }
}

/// Room for the similarities of a tile.
#[derive(Default)]
pub(super) struct ProductScratch<T> {
    room: ProductRoom<T>,
    /// The sums of squares of the vectors of either batch.
    squares: [Buffer<f64>; 2],
    are_alone: Vec<bool>,
}

impl<T: Real> Reusable for ProductScratch<T> {
    fn bytes(&self) -> usize {
        let ProductScratch { room, squares: [own, others], are_alone } = self;
        room.bytes() + own.bytes() + others.bytes() + are_alone.bytes()
    }
}

/// Where similarities go, row after row.
pub(super) enum Out<'s, T> {
    /// As they are.
    Rows(&'s mut [f64]),
    /// Rounded to the type of computation, with room for [`RIGHT`] of them.
    Rounded { out: &'s mut [T], row: &'s mut [f64] },
}

/// The vectors of both batches as factors, relative to the centre, and their similarities.
struct VectorFactors<'s, 'a, 'b, T> {
    batches: &'s Batches<'a, 'b>,
    /// The first row.
    first: usize,
    /// The sums of the squares of the vectors of either batch, if similarities cancel; else there is no centre.
    own: &'s mut [f64],
    others: &'s mut [f64],
    out: Out<'s, T>,
    marks: Option<&'s Marks>,
    are_alone: &'s mut [bool],
    buffers: [[T; COMPARED]; 2],
    terms: [f64; COMPARED],
}

impl<T: Real> Factors<T> for VectorFactors<'_, '_, '_, T> {
    fn left(&mut self, level: Level, tile: Tile, again: bool, rows: &mut [T]) {
        let Batches { views, centre, grids, similarity } = self.batches;
        grids[0].read(&views[0], 0, tile, rows);
        if similarity.cancels() {
            let (centre, cols, squares) = (&centre[tile.col..], tile.cols, &mut *self.own);
            simd::dispatch(level, CentredRows { rows, cols, centre, squares, again });
        }
    }

    fn right(&mut self, level: Level, tile: Tile, lanes: usize, panels: &mut [T]) {
        let Batches { views, centre, grids, similarity } = self.batches;
        grids[1].read_lanes(&views[1], 0, tile, lanes, panels);
        if similarity.cancels() {
            let (centre, squares) = (&centre[tile.col..], &mut self.others[tile.row..]);
            let cols = tile.cols;
            simd::dispatch(level, CentredPanels { panels, lanes, cols, centre, squares });
        }
    }

    fn finish(&mut self, level: Level, cols: Range<usize>, products: BlockSums<'_>) -> Result<()> {
        let similarity = self.batches.similarity;
        for (at, &own) in self.own.iter().enumerate() {
            let row = self.first + at;
            let place = at * self.others.len()..;
            let x = match &mut self.out {
                Out::Rows(rows) => &mut rows[place.clone()][cols.clone()],
                Out::Rounded { row, .. } => &mut row[..cols.len()],
            };
            products.from(at).copy_to(x);
            let others = &self.others[cols.clone()];
            let are_alone = &mut self.are_alone[..cols.len()];
            let of_products =
                OfProducts { similarity, x: &mut *x, own, others, are_alone: &mut *are_alone };
            if simd::dispatch(level, of_products) {
                let each = (cols.start..).zip(&mut *x).zip(&*are_alone);
                for ((col, x), _) in each.filter(|(_, is_alone)| **is_alone) {
                    threads::check()?;
                    let VectorFactors { batches, buffers, terms, .. } = self;
                    *x = batches.compare(level, [row, col], buffers, terms);
                }
            }
            if let Some(marks) = self.marks {
                marks.write(row, cols.start, are_alone);
            }
            if let Out::Rounded { out, row } = &mut self.out {
                T::of_run(&row[..cols.len()], &mut out[place][cols.clone()]);
            }
        }
        Ok(())
    }
}

/// Takes the centre from rows, and adds the squares of what is left unless that was done before.
struct CentredRows<'r, T> {
    rows: &'r mut [T],
    cols: usize,
    centre: &'r [f64],
    squares: &'r mut [f64],
    again: bool,
}

impl<T: Real> Kernel for CentredRows<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Isa>(self) {
        let CentredRows { rows, cols, centre, squares, again } = self;
        for (row, square) in rows.chunks_exact_mut(cols).zip(squares) {
            let mut sums = [T::ZERO; SQUARE_LANES];
            for (row, centre) in row.chunks_mut(SQUARE_LANES).zip(centre.chunks(SQUARE_LANES)) {
                for ((x, &centre), sum) in row.iter_mut().zip(centre).zip(&mut sums) {
                    *x -= T::from_f64(centre);
                    *sum = x.mul_add::<S>(*x, *sum);
                }
            }
            if !again {
                *square += sums.iter().fold(0.0, |total, sum| total + sum.to_f64());
            }
        }
    }
}

/// The same for panels of `lanes` rows side by side.
struct CentredPanels<'r, T> {
    panels: &'r mut [T],
    lanes: usize,
    cols: usize,
    centre: &'r [f64],
    squares: &'r mut [f64],
}

impl<T: Real> Kernel for CentredPanels<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Isa>(self) {
        let CentredPanels { panels, lanes, cols, centre, squares } = self;
        let squares = squares.chunks_mut(lanes);
        for (panel, squares) in panels.chunks_exact_mut(lanes * cols).zip(squares) {
            for (chain, centre) in panel.chunks_mut(CHAIN * lanes).zip(centre.chunks(CHAIN)) {
                let mut sums = [T::ZERO; MOST_LANES];
                for (line, &centre) in chain.chunks_exact_mut(lanes).zip(centre) {
                    let centre = T::from_f64(centre);
                    for (x, sum) in line.iter_mut().zip(&mut sums) {
                        *x -= centre;
                        *sum = x.mul_add::<S>(*x, *sum);
                    }
                }
                for (square, sum) in squares.iter_mut().zip(sums) {
                    *square += sum.to_f64();
                }
            }
        }
    }
}
