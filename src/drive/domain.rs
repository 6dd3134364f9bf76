//! What the elements of an argument must be, and the check of it, in the tile that computes.

use crate::array::{Shape, View, elements, short, unravel};
use crate::error::{Error, Kind, Number, Result};
use crate::math::Real;
use crate::simd::{self, Isa, Kernel, Level};
use std::fmt;

/// What an argument may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Domain {
    /// Any number, or NaN.
    Real,
    /// -1 or 1.
    Sign,
    /// 0 to 1.
    Probability,
    /// 0 to 1, or NaN, which a prediction hands on.
    PredictedProbability,
    /// A number > 0.
    Positive,
    /// A number >= 0.
    NonNegative,
    /// A number >= 0, or NaN, which a prediction hands on.
    Variance,
    /// The logarithm of a distribution along the class axis; an element of a label is checked not to be NaN.
    LogDistribution,
    /// A distribution along the class axis; each of its elements is checked to be >= 0.
    Distribution,
    /// Class indices.
    Classes,
    /// The classes of a set along the class axis, from its start up to the first -1.
    ClassSets,
    /// A distribution over the classes along their axis, which may hold any numbers.
    SoftClasses,
    /// Token sequences.
    Tokens,
    /// Lengths of sequences.
    Lengths,
    /// Where sequences that stand one behind another begin; given by name only.
    Offsets,
    /// Weights: finite and >= 0.
    Weight,
    /// One number for the whole call.
    Scalar,
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl Domain {
    /// Whether a number belongs to the domain.
    pub fn holds<T: Real>(self, x: T) -> bool {
        match self {
            Domain::LogDistribution => !x.is_nan(),
            Domain::Sign => x.abs() == T::ONE,
            Domain::Probability => (T::ZERO..=T::ONE).contains(&x),
            Domain::PredictedProbability => (T::ZERO..=T::ONE).contains(&x) || x.is_nan(),
            Domain::NonNegative | Domain::Distribution => x >= T::ZERO,
            Domain::Variance => x >= T::ZERO || x.is_nan(),
            Domain::Weight => (T::ZERO..T::INFINITY).contains(&x),
            _ => true,
        }
    }

    /// Whether all of them do.
    pub fn all_hold<T: Real>(self, level: Level, x: &[T]) -> bool {
        simd::dispatch(level, Ordinary { domain: self, x }) || self.each_holds(x)
    }

    /// The same as a part of a kernel: a call for each tile of elements takes as long as the test of one.
    #[inline(always)]
    pub fn all_hold_here<S: Isa, T: Real>(self, x: &[T]) -> bool {
        Ordinary { domain: self, x }.run::<S>() || self.each_holds(x)
    }

    #[cold]
    #[inline(never)]
    fn each_holds<T: Real>(self, x: &[T]) -> bool {
        x.iter().all(|&x| self.holds(x))
    }

    /// Whether elements are looked at one by one.
    pub fn is_checked(self) -> bool {
        !self.holds(f32::NAN) || matches!(self, Domain::PredictedProbability | Domain::Variance)
    }

    /// In words, with what to do about the usual mistake.
    fn expected(self) -> &'static str {
        match self {
            Domain::Sign => {
                "1 or -1 (2 * label - 1 makes them of 0 and 1; out_of_range='allow' follows the formula)"
            }
            Domain::Probability | Domain::PredictedProbability => {
                "a number from 0 to 1 (out_of_range='allow' follows the formula)"
            }
            Domain::Weight => "a finite weight >= 0",
            Domain::Variance => {
                "a variance >= 0 (the exponential or the softplus of a model's output is one)"
            }
            Domain::LogDistribution => "a number (out_of_range='allow' lets NaN pass)",
            _ => "a number >= 0 (out_of_range='allow' follows the formula)",
        }
    }
}

/// Whether numbers pass a test by vectors that is stricter than their domain: it fails for -0, which is 0 to 1.
struct Ordinary<'x, T> {
    domain: Domain,
    x: &'x [T],
}

impl<T: Real> Kernel for Ordinary<'_, T> {
    type Output = bool;
    #[inline(always)]
    fn run<S: Isa>(self) -> bool {
        let Ordinary { domain, x } = self;
        let most = match domain {
            Domain::LogDistribution => return T::sizes(x).most <= T::INFINITY,
            Domain::Sign => return T::all_signs(x),
            Domain::Probability | Domain::PredictedProbability => T::ONE,
            Domain::NonNegative | Domain::Variance | Domain::Distribution => T::INFINITY,
            Domain::Weight => T::MAX,
            _ => return true,
        };
        T::all_up_to(x, most)
    }
}

/// An argument whose elements are checked where they are used.
#[derive(Clone, Debug)]
pub struct Check<'a> {
    /// The argument's name.
    pub name: &'static str,
    /// What its elements must be.
    pub domain: Domain,
    /// The argument as it was given.
    pub given: View<'a>,
}

impl<'a> Check<'a> {
    /// The check of an argument, if its domain asks for one.
    pub fn new(name: &'static str, domain: Domain, given: &View<'a>) -> Option<Box<Self>> {
        domain.is_checked().then(|| Box::new(Check { name, domain, given: given.clone() }))
    }

    /// The error of the element at an index.
    pub fn error(&self, index: &[usize]) -> Error {
        self.error_of(index, self.given.number(index))
    }

    /// The error of the element at an index, whose number is known.
    pub fn error_of(&self, index: &[usize], number: Number) -> Error {
        let kind = if self.domain == Domain::Weight { Kind::Weight } else { Kind::Label };
        Error::element(kind, self.name, index, number, self.domain.expected())
    }

    /// Looks at every element.
    pub fn all(&self) -> Result<()> {
        let mut wrong = None;
        self.given.each_block(|first, block: &[f64]| {
            if wrong.is_none() && !self.domain.all_hold(Level::in_use(), block) {
                wrong = block.iter().position(|&x| !self.domain.holds(x)).map(|at| first + at);
            }
        });
        wrong.map_or(Ok(()), |at| Err(self.error(&unravel(at, self.given.shape()))))
    }
}

/// The order of the elements of the unreduced loss E as the drivers see them, the batch axis first.
#[derive(Clone, Copy, Debug)]
pub struct Order<'a> {
    /// E's shape.
    pub shape: &'a [usize],
    /// The axis of the samples.
    pub batch: usize,
}

impl Order<'_> {
    /// E's shape with the batch axis first.
    pub fn batch_first(&self) -> Shape {
        let mut shape = short(self.shape);
        shape[..=self.batch].rotate_right(1);
        shape
    }

    /// The index in an array of shape `given`, with E's elements in E's order or broadcast to them, of the element at a
    /// position with the batch axis first.
    #[expect(clippy::disallowed_methods, reason = "as long as the rank")]
    pub fn element(&self, position: usize, given: &[usize]) -> Vec<usize> {
        let mut index = unravel(position, &self.batch_first());
        let n = index.remove(0);
        index.insert(self.batch, n);
        if elements(given) != elements(self.shape) {
            index.drain(..self.shape.len() - given.len());
            for (i, d) in index.iter_mut().zip(given) {
                *i = (*i).min(d - 1);
            }
            return index;
        }
        let flat = index.iter().zip(self.shape).fold(0, |flat, (i, d)| flat * d + i);
        unravel(flat, given)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_wrong_element_is_named() {
        let mut x = vec![1.0_f32; 3 * 1500];
        x[2 * 1500 + 7] = -0.5;
        x[2 * 1500 + 9] = f32::NAN;
        let check = |domain| Check { name: "x", domain, given: View::from_slice(&x, &[3, 1500]) };
        for domain in [Domain::Sign, Domain::Probability, Domain::NonNegative, Domain::Weight] {
            let error = check(domain).all().unwrap_err();
            assert_eq!(error.index.as_deref(), Some(&[2, 7][..]), "{domain}");
        }
        assert!(check(Domain::Real).all().is_ok());
    }

    #[test]
    fn a_wrong_element_is_found_wherever_it_is() {
        let lens = [1, 127, 128, 129, 200, 331];
        for (level, len) in Level::available().flat_map(|level| lens.map(|len| (level, len))) {
            let mut x = vec![1.0_f32; len + 3];
            for (start, i) in (0..3).flat_map(|start| (0..len).map(move |i| (start, i))) {
                for domain in [Domain::Sign, Domain::Probability, Domain::Weight] {
                    let holds = |x: &[f32]| domain.all_hold(level, &x[start..][..len]);
                    assert!(holds(&x));
                    x[start + i] = if domain == Domain::Sign { 0.5 } else { -0.5 };
                    assert!(!holds(&x), "{level:?} {domain} {start} {i} of {len}");
                    x[start + i] = 1.0;
                }
            }
        }
    }

    #[test]
    fn not_a_number_is_in_no_domain() {
        for domain in [Domain::Sign, Domain::Probability, Domain::NonNegative, Domain::Weight] {
            for level in Level::available() {
                assert!(!domain.all_hold(level, &[1.0, f64::NAN, 1.0]));
                assert!(domain.all_hold(level, &[1.0_f32, 1.0]));
            }
        }
        assert!(Domain::Variance.holds(f64::NAN) && !Domain::Variance.holds(-1.0));
        assert!(!Domain::Weight.holds(f64::INFINITY) && Domain::NonNegative.holds(f64::INFINITY));
    }
}
