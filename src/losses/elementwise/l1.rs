//! Absolute error.
//!
//! `loss = |label - pred|`; the slope is the sign of `pred - label`, and 0 at the kink, where both are equal. The second
//! derivative is 0. Source: Apache MXNet Gluon, `L1Loss`.

use super::{Elementwise, Point};
use crate::math::Real;
use crate::simd::Isa;

/// Absolute error.
#[derive(Clone, Copy)]
pub struct L1;

impl Elementwise<2> for L1 {
    #[inline(always)]
    fn point<S: Isa, T: Real>(self, [pred, label]: [T; 2]) -> Point<T, 2> {
        let error = pred - label;
        let slope = error.sign();
        Point { value: error.abs(), grad: [slope, -slope], hess: T::ZERO }
    }
}
