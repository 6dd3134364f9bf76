//! One element of the Kullback-Leibler divergence, and a row of them; see [`super::kl_div`].

use crate::losses::elementwise::{Elementwise, Point};
use crate::math::Real;
use crate::num::{Float, Sizes};
use crate::simd::{Isa, Kernel};
use crate::softmax::Softmax;

/// The divergence with its numbers.
#[derive(Clone, Copy)]
pub(super) struct Divergence {
    /// Whether the label is the logarithm of y.
    pub log_target: bool,
    pub epsilon: f64,
    pub temperature: f64,
}

/// The divergence from log-probabilities; `LOG` is [`Divergence::log_target`].
#[derive(Clone, Copy)]
pub(super) struct FromLogProbs<const LOG: bool>(pub Divergence);

/// An element of E / T.
pub(super) struct Term<T> {
    pub y: T,
    pub value: T,
    /// The derivative with respect to the label.
    pub slope: T,
}

impl Divergence {
    /// A temperature whose products with logarithms every type holds.
    const WARM: f64 = 1e9;

    /// From the label and -T log p; `LOG` is [`Divergence::log_target`], known to the compiler.
    #[inline(always)]
    pub fn term<const LOG: bool, S: Isa, T: Real>(self, label: T, surprise: T) -> Term<T> {
        let t = T::from_f64(self.temperature);
        if LOG {
            let (y, gap) = (label.exp::<S>(), label * t + surprise);
            return Term { y, value: gap.weighted(y), slope: (gap + t).weighted(y) };
        }
        let epsilon = T::from_f64(self.epsilon);
        let shifted = label + epsilon;
        // Next to 1 the logarithm is not larger than what the sum rounds off.
        let log = shifted.log_of_sum::<S>(T::lost(label, epsilon, shifted));
        let gap = log * t + surprise;
        let ratio = if epsilon == T::ZERO { t } else { label / shifted * t };
        let (nothing, value) = (label == T::ZERO && !surprise.is_nan(), label * gap);
        // Of an impossible class any label but 0 has an infinite loss.
        let jumps = label == T::ZERO && surprise == T::INFINITY;
        Term {
            y: label,
            value: if nothing { T::ZERO } else { value },
            slope: if jumps { T::INFINITY } else { gap + ratio },
        }
    }

    /// The derivative of E with respect to the label.
    #[inline(always)]
    pub fn slope<const LOG: bool, S: Isa, T: Real>(self, label: T, surprise: T) -> f64 {
        self.term::<LOG, S, T>(label, surprise).slope.to_f64() * self.temperature
    }

    /// The value of [`Divergence::term`], with the same bits, for a finite -T log p and labels that
    /// [`Divergence::are_small`].
    #[inline(always)]
    fn small_value<S: Isa, T: Real>(self, label: T, surprise: T) -> T {
        let [epsilon, t] = [self.epsilon, self.temperature].map(T::from_f64);
        let shifted = label + epsilon;
        let log = shifted.log_of_small_sum::<S>(T::lost(label, epsilon, shifted));
        // Of a label of 0, a zero without a sign.
        label * (log * t + surprise) + T::ZERO
    }

    /// Whether labels are 0 to 1, their sums with epsilon normal numbers up to 2, or 0, and products with the temperature
    /// far from overflow.
    #[inline(always)]
    fn are_small<T: Real>(self, labels: &[T]) -> bool {
        let epsilon = T::from_f64(self.epsilon);
        let Sizes { least, most, any_sign } = T::sizes(labels);
        let normal = epsilon >= T::MIN_POSITIVE || (epsilon == T::ZERO && least >= T::MIN_POSITIVE);
        let up_to_1 = epsilon <= T::ONE && most <= T::ONE && !any_sign;
        !self.log_target && normal && up_to_1 && self.temperature <= Self::WARM
    }

    /// y: the label, or its exponential in the room.
    #[inline(always)]
    pub fn target<'y, S: Isa, T: Real>(self, label: &'y [T], room: &'y mut [T]) -> &'y [T] {
        if !self.log_target {
            return label;
        }
        for (y, x) in room.iter_mut().zip(label) {
            *y = x.exp::<S>();
        }
        room
    }
}

/// Elements that share one array of ones where there are no weights.
const BLOCK: usize = 64;

/// E / T and the derivative of the result with respect to the label, for a row of logits.
pub(super) struct RowTerms<'r, T> {
    pub divergence: Divergence,
    pub softmax: Softmax<T>,
    pub x: &'r [T],
    pub label: &'r [T],
    /// What is not wanted is `None`.
    pub value: Option<&'r mut [T]>,
    pub label_grad: Option<&'r mut [T]>,
    /// What derivatives are multiplied by, besides the weights of the elements.
    pub scale: f64,
    pub weights: Option<&'r [T]>,
}

impl<T: Real> Kernel for RowTerms<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Isa>(self) {
        if self.divergence.log_target { self.fill::<true, S>() } else { self.fill::<false, S>() }
    }
}

impl<T: Real> RowTerms<'_, T> {
    #[inline(always)]
    fn fill<const LOG: bool, S: Isa>(self) {
        let RowTerms { divergence, softmax, x, label, scale, .. } = self;
        let t = divergence.temperature;
        let log_sum = T::from_f64(softmax.others).log1p::<S>() * T::from_f64(t);
        if let Some(value) = self.value {
            let elements = value.iter_mut().zip(x).zip(label);
            if !LOG && self.softmax.is_near() && divergence.are_small(label) {
                for ((v, &x), &label) in elements {
                    *v = divergence.small_value::<S, T>(label, (softmax.max - x) + log_sum);
                }
            } else {
                for ((v, &x), &label) in elements {
                    *v = divergence.term::<LOG, S, T>(label, softmax.gap(x) + log_sum).value;
                }
            }
        }
        let Some(label_grad) = self.label_grad else { return };
        // One loop for both cases, as it is long and seldom asked for.
        let ones = [T::ONE; BLOCK];
        let blocks = label_grad.chunks_mut(BLOCK).zip(x.chunks(BLOCK));
        for (block, ((grad, x), label)) in blocks.zip(label.chunks(BLOCK)).enumerate() {
            let weights = self.weights.map_or(&ones[..], |all| &all[block * BLOCK..]);
            for (((g, &x), &label), weight) in grad.iter_mut().zip(x).zip(label).zip(weights) {
                let slope = divergence.slope::<LOG, S, T>(label, softmax.gap(x) + log_sum);
                *g = T::from_f64(slope.weighted(weight.to_f64()) * scale);
            }
        }
    }
}

impl<const LOG: bool> Elementwise<2> for FromLogProbs<LOG> {
    const COST: f64 = 0.5;

    #[inline(always)]
    fn point<S: Isa, T: Real>(self, [pred, label]: [T; 2]) -> Point<T, 2> {
        // Log-probabilities have no temperature: as a constant it takes no time.
        let plain = Divergence { temperature: 1.0, ..self.0 };
        let Term { y, value, slope } = plain.term::<LOG, S, T>(label, -pred);
        Point { value, grad: [-y, slope], hess: T::ZERO }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::Baseline;

    fn of(epsilon: f64, temperature: f64) -> Divergence {
        Divergence { log_target: false, epsilon, temperature }
    }

    #[test]
    fn the_fast_value_has_the_bits_of_the_general_one() {
        agree::<f32>();
        agree::<f64>();
    }

    fn agree<T: Real>() {
        let labels = [0.0, 1.0, 0.3, 0.75, 1e-3, 1e-30].map(T::from_f64);
        let labels = [&labels[..], &[T::MIN_POSITIVE]].concat();
        let settings =
            [0.0, 1e-12, 0.5, 1.0].map(|epsilon| [0.1, 1.0, 1e9].map(|t| of(epsilon, t)));
        for divergence in settings.as_flattened() {
            assert!(divergence.are_small(&labels));
            for surprise in [0.0, 1e-20, 0.7, 100.0, 1e11].map(T::from_f64) {
                for &label in &labels {
                    let fast = divergence.small_value::<Baseline, T>(label, surprise).to_f64();
                    let general =
                        divergence.term::<false, Baseline, T>(label, surprise).value.to_f64();
                    assert_eq!(fast.to_bits(), general.to_bits(), "{label:?} {surprise:?}");
                }
            }
        }
    }

    #[test]
    fn other_labels_take_the_general_way() {
        for label in [-0.0, -0.5, 1.5, 1e-40, f32::NAN, f32::INFINITY] {
            assert!(!of(0.0, 1.0).are_small(&[0.5, label]), "{label}");
        }
        for [epsilon, temperature] in [[1e-40, 1.0], [2.0, 1.0], [-0.1, 1.0], [0.0, 1e30]] {
            assert!(!of(epsilon, temperature).are_small(&[0.5_f32]), "{epsilon} {temperature}");
        }
    }
}
