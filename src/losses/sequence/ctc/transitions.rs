//! The transitions between the states of neighbouring frames, where each state has an exponent of its own.
//!
//! ```text
//!   forward                              backward
//!   label u-1 --enter[u]--> blank u      the same arrows, followed
//!   blank u   --leave[u]--> label u      from their heads to their tails
//!   label u-1 --jump[u]---> label u
//! ```
//!
//! and every state leads to itself. A transition between states whose numbers are `m * 2^k`, of different exponents k,
//! multiplies the mantissa by 2 to the difference of the exponents: that is its weight.

use super::frames::exponents::power_of_two;
use super::frames::lanes::as_groups;
use super::frames::{Direction, GROUP};
use super::state_rows::blanks_and_labels;
use super::target::CtcTarget;
use crate::buffer::Buffer;
use crate::error::Result;
use crate::scratch::Reusable;
use crate::simd::{F64x8, Isa};
use std::ops::Range;

/// The exponent of a state that no path reaches.
pub const UNREACHED: f64 = -1e15;
/// An exponent below this is that of a state which no path reaches: it may have grown with each label of a sequence.
const NEARLY_UNREACHED: f64 = -1e14;

/// The weights of all transitions, named as in the module's comment whatever the direction.
#[derive(Default)]
pub struct TransitionWeights {
    enter: Buffer<f64>,
    leave: Buffer<f64>,
    jump: Buffer<f64>,
}

impl TransitionWeights {
    /// Makes room for a target. The weights may be any, but no transition leads into the padding.
    pub fn fit(&mut self, target: &CtcTarget) -> Result<()> {
        for weights in [&mut self.enter, &mut self.leave, &mut self.jump] {
            weights.sized(target.width() + GROUP)?[target.width()..].fill(0.0);
        }
        Ok(())
    }

    pub fn bytes(&self) -> usize {
        3 * self.enter.bytes()
    }

    /// Sets the weights from the exponents of the states, for steps in a direction.
    #[inline(always)]
    pub fn set(
        &mut self,
        direction: Direction,
        target: &CtcTarget,
        exponents: &[f64],
        groups: Range<usize>,
    ) {
        match direction {
            Direction::Forward => self.set_ordered(target, exponents, groups, |a, b| (a, b)),
            Direction::Backward => self.set_ordered(target, exponents, groups, |a, b| (b, a)),
        }
    }

    /// `order` takes the exponents at the tail and at the head of an arrow, and returns them as a step takes the
    /// states.
    #[inline(always)]
    fn set_ordered(
        &mut self,
        target: &CtcTarget,
        exponents: &[f64],
        groups: Range<usize>,
        order: impl Fn(f64, f64) -> (f64, f64),
    ) {
        let (start, end) = (groups.start * GROUP, groups.end * GROUP);
        let [before, blank, label] = arrow_ends(target, exponents, start, end);
        let skip = &target.skip[start..end];
        let enter = &mut self.enter[start..end];
        let leave = &mut self.leave[start..end];
        let jump = &mut self.jump[start..end];
        for u in 0..end - start {
            let arrows = [(before[u], blank[u]), (blank[u], label[u]), (before[u], label[u])];
            let mut weights = [0.0; 3];
            for (weight, (tail, head)) in weights.iter_mut().zip(arrows) {
                let (from, to) = order(tail, head);
                *weight = power_of_two(from - to);
            }
            enter[u] = weights[0];
            leave[u] = weights[1];
            jump[u] = skip[u] * weights[2];
        }
        // There are no labels behind the last one, only padding.
        self.leave[target.label_count().clamp(start, end)..end].fill(0.0);
    }

    /// Whether a weight underflows where that may matter. A weight below 2^-1022 would bring at most 2^-516 to the
    /// mantissa of the state that its transition leads to; that matters where this mantissa is below 2^-150.
    // A lazy operator is a branch, which would keep the loop from being vectorised.
    #[allow(clippy::needless_bitwise_bool)]
    #[inline(always)]
    pub fn are_lossy(
        direction: Direction,
        target: &CtcTarget,
        exponents: &[f64],
        mantissas: &[f64],
        groups: &Range<usize>,
    ) -> bool {
        const LIGHT: f64 = 1.0 / ((1_u128 << 100) as f64 * (1_u64 << 50) as f64);
        let (start, end) = (groups.start * GROUP, groups.end * GROUP);
        let [before, blank, label] = arrow_ends(target, exponents, start, end);
        let [before_m, blank_m, label_m] = arrow_ends(target, mantissas, start, end);
        let mut lossy = false;
        for u in 0..end - start {
            let arrows = [
                ((before[u], before_m[u]), (blank[u], blank_m[u])),
                ((blank[u], blank_m[u]), (label[u], label_m[u])),
                ((before[u], before_m[u]), (label[u], label_m[u])),
            ];
            for (tail, head) in arrows {
                let ((from, _), (to, own)) =
                    if direction == Direction::Forward { (tail, head) } else { (head, tail) };
                lossy |= (from > NEARLY_UNREACHED) & (from - to < -1022.0) & (own < LIGHT);
            }
        }
        lossy
    }
}

/// The states `start..end` of a state row that arrows connect: the labels before the blanks, the blanks, and the labels
/// behind the blanks.
#[inline(always)]
fn arrow_ends<'a>(target: &CtcTarget, row: &'a [f64], start: usize, end: usize) -> [&'a [f64]; 3] {
    let label = target.width() + start..target.width() + end;
    [&row[label.start - 1..label.end - 1], &row[start..end], &row[label]]
}

/// The transitions into the states of some groups, the same at each of several frames.
///
/// Besides the groups themselves, a step reads the group next to them where a transition crosses their edge.
pub struct Transitions<'a> {
    direction: Direction,
    groups: usize,
    /// Groups of a row of blanks, and of a row of labels.
    width: usize,
    /// Groups of a state row next to the groups that are written: a step reads them, and they have to be zeros.
    borders: [Option<usize>; 2],
    /// Where in a state row four runs of groups begin: the blanks, the labels, and the same for the groups one further
    /// towards where the direction comes from, as far as a step reads states from there.
    starts: [usize; 4],
    /// The weights of the transitions to a blank from a label, to a label from a blank, and to a label from a label:
    /// `enter`, `leave` and `jump` of a state forward; `leave` of the state, `enter` and `jump` of the next one
    /// backward.
    weights: [&'a [F64x8]; 3],
}

impl<'a> Transitions<'a> {
    #[inline(always)]
    pub fn new(
        direction: Direction,
        target: &CtcTarget,
        weights: &'a TransitionWeights,
        groups: &Range<usize>,
    ) -> Self {
        let (n, blank) = (groups.len(), groups.start);
        let width = target.width() / GROUP;
        let label = width + blank;
        let start = blank * GROUP;
        let TransitionWeights { enter, leave, jump } = weights;
        let (beside, weights) = match direction {
            Direction::Forward => {
                ([blank, label - 1], [&enter[start..], &leave[start..], &jump[start..]])
            }
            Direction::Backward => {
                ([blank + 1, label + 1], [&leave[start..], &enter[start + 1..], &jump[start + 1..]])
            }
        };
        let weights = weights.map(|weights| &as_groups(weights)[..n]);
        let starts = [blank, label, beside[0], beside[1]];
        let mut transitions =
            Transitions { direction, groups: n, width, borders: [None; 2], starts, weights };
        transitions.borders =
            transitions.borders_of(groups).map(|at| at.filter(|&at| !transitions.writes(at)));
        transitions
    }

    /// The sums over the transitions from the states of a row.
    #[inline(always)]
    pub fn from(&self, row: &'a [F64x8]) -> Incoming<'a> {
        let [blank, label, blank_beside, label_beside] =
            self.starts.map(|start| &row[start..][..self.groups]);
        let (direction, weights) = (self.direction, self.weights);
        Incoming { direction, blank, label, beside: [blank_beside, label_beside], weights }
    }

    /// Writes zeros next to the groups of a row, where the step to the next row reads them; `next` are the groups of
    /// that row if they are others.
    #[inline(always)]
    pub fn zero_borders(&self, next: Option<&Range<usize>>, row: &mut [F64x8]) {
        for at in self.borders.into_iter().flatten() {
            row[at] = [0.0; GROUP];
        }
        if let Some(next) = next.filter(|next| **next != self.own()) {
            let beside = self.borders_of(next).into_iter().flatten();
            for at in next.clone().chain(next.clone().map(|g| self.width + g)).chain(beside) {
                if !self.writes(at) {
                    row[at] = [0.0; GROUP];
                }
            }
        }
    }

    fn own(&self) -> Range<usize> {
        let start = self.starts[0];
        start..start + self.groups
    }

    /// Whether a step to these groups writes a group of a state row.
    fn writes(&self, at: usize) -> bool {
        let own = self.own();
        own.contains(&at) || at >= self.width && own.contains(&(at - self.width))
    }

    /// The groups of a state row that a step to some groups reads beside these.
    fn borders_of(&self, groups: &Range<usize>) -> [Option<usize>; 2] {
        match self.direction {
            Direction::Forward => [Some(self.width + groups.start - 1), None],
            Direction::Backward => [Some(groups.end), Some(self.width + groups.end)],
        }
    }
}

/// Numbers for the states of some groups.
pub trait StateGroups {
    /// The blanks and the labels of group g.
    fn group<S: Isa>(&self, g: usize) -> [F64x8; 2];
}

/// Numbers as they stand in a state row.
pub struct Stored<'a>([&'a [F64x8]; 2]);

impl<'a> Stored<'a> {
    #[inline(always)]
    pub fn new(row: &'a [F64x8], target: &CtcTarget, groups: &Range<usize>) -> Self {
        Stored(blanks_and_labels(row, target, groups))
    }
}

impl StateGroups for Stored<'_> {
    #[inline(always)]
    fn group<S: Isa>(&self, g: usize) -> [F64x8; 2] {
        self.0.map(|states| states[g])
    }
}

/// For each state the sum over the transitions that lead to it.
pub struct Incoming<'a> {
    direction: Direction,
    blank: &'a [F64x8],
    label: &'a [F64x8],
    /// The groups of blanks and of labels one further towards where the direction comes from.
    beside: [&'a [F64x8]; 2],
    weights: [&'a [F64x8]; 3],
}

impl StateGroups for Incoming<'_> {
    #[inline(always)]
    fn group<S: Isa>(&self, g: usize) -> [F64x8; 2] {
        let (blank, label) = (&self.blank[g], &self.label[g]);
        let [blank_beside, label_beside] = self.beside;
        let [to_blank, by_blank, by_label] = match self.direction {
            Direction::Forward => {
                let before = S::delayed(&label_beside[g], label);
                [before, *blank, before]
            }
            Direction::Backward => {
                let by_blank = S::advanced(blank, &blank_beside[g]);
                [*label, by_blank, S::advanced(label, &label_beside[g])]
            }
        };
        let [into_blank, from_blank, from_label] = self.weights;
        let labels = S::mul_add(&by_blank, &from_blank[g], label);
        [
            S::mul_add(&to_blank, &into_blank[g], blank),
            S::mul_add(&by_label, &from_label[g], &labels),
        ]
    }
}
