//! The arrows between the states of a lattice, whose exponents differ.

use super::linear::NEARLY_DEAD;
use super::planes::{Group, Lines, groups_below, lanes, mul_add, power_of_two};
use super::target::Target;
use super::{LANES, Side};
use crate::simd::Isa;
use std::ops::Range;

/// What the arrows between states multiply by, in the order of the states they lead to when read from the start.
pub(super) struct Weights {
    enter: Lines,
    leave: Lines,
    jump: Lines,
}

impl Weights {
    pub fn new(target: &Target) -> Self {
        let zeros = || Lines::zeros(target.width + LANES);
        Weights { enter: zeros(), leave: zeros(), jump: zeros() }
    }

    pub fn bytes(&self) -> usize {
        3 * self.enter.capacity() * size_of::<f64>()
    }

    /// From the exponents of states that `side` feeds. Whether one was too small for a number.
    #[inline(always)]
    pub fn set(
        &mut self,
        side: Side,
        target: &Target,
        power: &[f64],
        groups: Range<usize>,
    ) -> bool {
        match side {
            Side::Start => self.set_by(target, power, groups, |from, to| (from, to)),
            Side::End => self.set_by(target, power, groups, |from, to| (to, from)),
        }
    }

    #[inline(always)]
    fn set_by(
        &mut self,
        target: &Target,
        power: &[f64],
        groups: Range<usize>,
        order: impl Fn(f64, f64) -> (f64, f64),
    ) -> bool {
        let (start, end) = (groups.start * LANES, groups.end * LANES);
        let before = &power[target.width + start - 1..target.width + end - 1];
        let blank = &power[start..end];
        let label = &power[target.width + start..target.width + end];
        let skip = &target.skip[start..end];
        let enter = &mut self.enter[start..end];
        let leave = &mut self.leave[start..end];
        let jump = &mut self.jump[start..end];
        let mut lost = false;
        for u in 0..end - start {
            let arrows = [(before[u], blank[u]), (blank[u], label[u]), (before[u], label[u])];
            let mut weights = [0.0; 3];
            for (weight, (from, to)) in weights.iter_mut().zip(arrows) {
                let (from, to) = order(from, to);
                let bits = from - to;
                let lossy = if from > NEARLY_DEAD { bits } else { 0.0 };
                lost |= lossy < -1022.0;
                *weight = power_of_two(bits);
            }
            enter[u] = weights[0];
            leave[u] = weights[1];
            jump[u] = skip[u] * weights[2];
        }
        lost
    }
}

/// One step along the arrows: writes to `out` what `each_blank` and `each_label` make of a group's number and its sums.
///
/// One loop for each arrow. No loop reads a plane at two offsets: the compiler would load every element once and put the
/// vectors together piece by piece.
#[inline(always)]
pub(super) fn propagate<S: Isa>(
    side: Side,
    target: &Target,
    row: &[f64],
    weights: &Weights,
    groups: &Range<usize>,
    out: [&mut [Group]; 2],
    mut each_blank: impl FnMut(usize, Group) -> Group,
    mut each_label: impl FnMut(usize, Group) -> Group,
) {
    let (n, start) = (groups.len(), groups.start * LANES);
    let labels = target.width + start;
    let at = |from: usize| lanes(&row[from..]);
    let Weights { enter, leave, jump } = weights;
    // What feeds blank u; and through blanks, through labels, what feeds label u.
    let (to_blank, by_blank, by_label) = match side {
        Side::Start => {
            let before = at(labels - 1);
            ((before, &enter[start..]), (at(start), &leave[start..]), (before, &jump[start..]))
        }
        Side::End => (
            (at(labels), &leave[start..]),
            (at(start + 1), &enter[start + 1..]),
            (at(labels + 1), &jump[start + 1..]),
        ),
    };
    let (blank, label) = (at(start), at(labels));
    let [blank_out, label_out] = out;
    let weights = lanes(to_blank.1);
    for g in groups_below(n) {
        blank_out[g] = each_blank(g, mul_add::<S>(&to_blank.0[g], &weights[g], &blank[g]));
    }
    let weights = lanes(by_blank.1);
    for g in groups_below(n) {
        label_out[g] = mul_add::<S>(&by_blank.0[g], &weights[g], &label[g]);
    }
    let weights = lanes(by_label.1);
    for g in groups_below(n) {
        label_out[g] = each_label(g, mul_add::<S>(&by_label.0[g], &weights[g], &label_out[g]));
    }
}
