//! Running a function as a kernel does, for the tests of this module.

/// Calls `$check` with the values of `$f` at `$x` on every level of this CPU. A long slice must give the
/// bits that slices of one element give.
macro_rules! on_every_level {
    ($x:expr, |$v:ident, $s:ident| $f:expr, $check:expr) => {{
        struct Map<'a, T>(&'a [T]);

        impl<T: Real> Kernel for Map<'_, T> {
            type Output = Vec<T>;

            #[inline(always)]
            fn run<$s: Isa>(self) -> Vec<T> {
                self.0.iter().map(|&$v| $f).collect()
            }
        }

        let x = $x;
        for level in Level::available() {
            let single: Vec<_> = x.iter().flat_map(|&v| dispatch(level, Map(&[v]))).collect();
            assert_same(&dispatch(level, Map(&x.repeat(37))), &single.repeat(37));
            $check(&single[..]);
        }
    }};
}
pub(super) use crate::math::Real;
pub(super) use crate::simd::{Isa, Kernel, Level, dispatch};
pub(super) use on_every_level;

/// Panics unless all are equal, zeros with their signs, or both NaN.
#[track_caller]
pub(super) fn assert_same<T: Real>(got: &[T], expected: &[T]) {
    let same = |a: T, b: T| {
        (a == b && T::ONE.copysign(a) == T::ONE.copysign(b)) || (a.is_nan() && b.is_nan())
    };
    assert!(
        got.len() == expected.len() && got.iter().zip(expected).all(|(&a, &b)| same(a, b)),
        "got {got:?}, expected {expected:?}"
    );
}

/// Panics unless all are within `ulp` of what is expected, counting as one ulp the machine epsilon times the
/// number, which is up to twice as much; the bounds proper are tested against higher precision.
#[track_caller]
pub(super) fn assert_close(ulp: f64, got: &[f64], expected: &[f64]) {
    assert_eq!(got.len(), expected.len());
    for (a, b) in got.iter().zip(expected) {
        assert!(
            (a - b).abs() <= ulp * f64::EPSILON * b.abs(),
            "got {got:?}, expected {expected:?}"
        );
    }
}
