//! Half the squared error.
//!
//! `loss = (label - pred)^2 / 2`, slope `pred - label`, second derivative 1. Source: Apache MXNet Gluon, `L2Loss`.

use super::{Elementwise, Point};
use crate::math::Real;
use crate::simd::Isa;

/// Half the squared error.
#[derive(Clone, Copy)]
pub struct L2;

impl Elementwise<2> for L2 {
    #[inline(always)]
    fn point<S: Isa, T: Real>(self, [pred, label]: [T; 2]) -> Point<T, 2> {
        let error = pred - label;
        Point { value: T::HALF * error * error, grad: [error, -error], hess: T::ONE }
    }
}
