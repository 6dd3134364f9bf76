//! The arrows between the states of a lattice, whose exponents differ.

use super::linear::NEARLY_DEAD;
use super::planes::{Lines, Octet, lanes, power_of_two};
use super::target::Target;
use super::{LANES, Side};
use crate::error::Result;
use crate::simd::Isa;
use std::ops::Range;

/// What the arrows between states multiply by, in the order of the states they lead to when read from the start.
#[derive(Default)]
pub(super) struct Weights {
    enter: Lines,
    leave: Lines,
    jump: Lines,
}

impl Weights {
    /// Makes room for those of a target. They may be any, but no arrow crosses from one plane to the other.
    pub fn fit(&mut self, target: &Target) -> Result<()> {
        for lines in [&mut self.enter, &mut self.leave, &mut self.jump] {
            lines.sized(target.width + LANES)?[target.width..].fill(0.0);
        }
        Ok(())
    }

    pub fn bytes(&self) -> usize {
        3 * self.enter.capacity() * size_of::<f64>()
    }

    /// From the exponents of states that `side` feeds.
    #[inline(always)]
    pub fn set(&mut self, side: Side, target: &Target, power: &[f64], groups: Range<usize>) {
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
    ) {
        let (start, end) = (groups.start * LANES, groups.end * LANES);
        let [before, blank, label] = ends(target, power, start, end);
        let skip = &target.skip[start..end];
        let enter = &mut self.enter[start..end];
        let leave = &mut self.leave[start..end];
        let jump = &mut self.jump[start..end];
        for u in 0..end - start {
            let arrows = [(before[u], blank[u]), (blank[u], label[u]), (before[u], label[u])];
            let mut weights = [0.0; 3];
            for (weight, (from, to)) in weights.iter_mut().zip(arrows) {
                let (from, to) = order(from, to);
                *weight = power_of_two(from - to);
            }
            enter[u] = weights[0];
            leave[u] = weights[1];
            jump[u] = skip[u] * weights[2];
        }
        // Nothing reaches what is behind the labels.
        self.leave[target.len.clamp(start, end)..end].fill(0.0);
    }

    /// Whether a weight is too small for a number where that may matter: what it would bring is at most 2^-516 of a
    /// mantissa of 1 at the state that it feeds, and that state has not even 2^-150 of its own.
    // A lazy operator is a branch, which would keep the loop from being vectorised.
    #[allow(clippy::needless_bitwise_bool)]
    #[inline(always)]
    pub fn are_lossy(
        side: Side,
        target: &Target,
        power: &[f64],
        row: &[f64],
        groups: &Range<usize>,
    ) -> bool {
        const LIGHT: f64 = 1.0 / ((1_u128 << 100) as f64 * (1_u64 << 50) as f64);
        let (start, end) = (groups.start * LANES, groups.end * LANES);
        let [before, blank, label] = ends(target, power, start, end);
        let [before_row, blank_row, label_row] = ends(target, row, start, end);
        let mut lossy = false;
        for u in 0..end - start {
            let arrows = [
                ((before[u], before_row[u]), (blank[u], blank_row[u])),
                ((blank[u], blank_row[u]), (label[u], label_row[u])),
                ((before[u], before_row[u]), (label[u], label_row[u])),
            ];
            for (from, to) in arrows {
                let ((from, _), (to, own)) =
                    if side == Side::Start { (from, to) } else { (to, from) };
                lossy |= (from > NEARLY_DEAD) & (from - to < -1022.0) & (own < LIGHT);
            }
        }
        lossy
    }
}

/// The labels before some blanks, these blanks, and the labels behind them.
#[inline(always)]
fn ends<'a>(target: &Target, plane: &'a [f64], start: usize, end: usize) -> [&'a [f64]; 3] {
    let label = target.width + start..target.width + end;
    [&plane[label.start - 1..label.end - 1], &plane[start..end], &plane[label]]
}

/// The arrows along which states in the same groups are reached, one frame like the other.
pub(super) struct Arrows<'a> {
    side: Side,
    groups: usize,
    /// Groups of a plane.
    plane: usize,
    /// Next to these groups, where a step to the same ones wants zeros.
    edges: [Option<usize>; 2],
    /// Where in a row the groups of blanks begin, those of labels, and those next to them that feed them, too.
    starts: [usize; 4],
    /// What multiplies the label that feeds a blank, the blank that feeds a label, and the label that feeds a label.
    weights: [&'a [Octet]; 3],
}

impl<'a> Arrows<'a> {
    #[inline(always)]
    pub fn new(side: Side, target: &Target, weights: &'a Weights, groups: &Range<usize>) -> Self {
        let (n, blank) = (groups.len(), groups.start);
        let plane = target.width / LANES;
        let label = plane + blank;
        let start = blank * LANES;
        let Weights { enter, leave, jump } = weights;
        let (beside, weights) = match side {
            Side::Start => ([blank, label - 1], [&enter[start..], &leave[start..], &jump[start..]]),
            Side::End => {
                ([blank + 1, label + 1], [&leave[start..], &enter[start + 1..], &jump[start + 1..]])
            }
        };
        let weights = weights.map(|weights| &lanes(weights)[..n]);
        let starts = [blank, label, beside[0], beside[1]];
        let mut arrows = Arrows { side, groups: n, plane, edges: [None; 2], starts, weights };
        arrows.edges = arrows.beside(groups).map(|at| at.filter(|&at| !arrows.writes(at)));
        arrows
    }

    /// What a row feeds along them.
    #[inline(always)]
    pub fn from(&self, row: &'a [Octet]) -> Fed<'a> {
        let [blank, label, blank_beside, label_beside] =
            self.starts.map(|start| &row[start..][..self.groups]);
        let (side, weights) = (self.side, self.weights);
        Fed { side, blank, label, beside: [blank_beside, label_beside], weights }
    }

    /// Zeros around these groups in a row, for a step to the same ones or to others.
    #[inline(always)]
    pub fn surround(&self, next: Option<&Range<usize>>, row: &mut [Octet]) {
        for at in self.edges.into_iter().flatten() {
            row[at] = [0.0; LANES];
        }
        if let Some(next) = next.filter(|next| **next != self.own()) {
            let beside = self.beside(next).into_iter().flatten();
            for at in next.clone().chain(next.clone().map(|g| self.plane + g)).chain(beside) {
                if !self.writes(at) {
                    row[at] = [0.0; LANES];
                }
            }
        }
    }

    fn own(&self) -> Range<usize> {
        let start = self.starts[0];
        start..start + self.groups
    }

    /// Whether a group of a row is one of these.
    fn writes(&self, at: usize) -> bool {
        let own = self.own();
        own.contains(&at) || at >= self.plane && own.contains(&(at - self.plane))
    }

    /// The groups of a row next to some that feed them, too.
    fn beside(&self, groups: &Range<usize>) -> [Option<usize>; 2] {
        match self.side {
            Side::Start => [Some(self.plane + groups.start - 1), None],
            Side::End => [Some(groups.end), Some(self.plane + groups.end)],
        }
    }
}

/// Numbers for the blanks and the labels of some groups.
pub(super) trait Groups {
    /// Those of group g.
    fn group<S: Isa>(&self, g: usize) -> [Octet; 2];
}

impl Groups for [&[Octet]; 2] {
    #[inline(always)]
    fn group<S: Isa>(&self, g: usize) -> [Octet; 2] {
        self.map(|plane| plane[g])
    }
}

/// The sums over what feeds blanks and labels.
pub(super) struct Fed<'a> {
    side: Side,
    blank: &'a [Octet],
    label: &'a [Octet],
    beside: [&'a [Octet]; 2],
    weights: [&'a [Octet]; 3],
}

impl Groups for Fed<'_> {
    #[inline(always)]
    fn group<S: Isa>(&self, g: usize) -> [Octet; 2] {
        let (blank, label) = (&self.blank[g], &self.label[g]);
        let [blank_beside, label_beside] = self.beside;
        let [to_blank, by_blank, by_label] = match self.side {
            Side::Start => {
                let before = S::delayed(&label_beside[g], label);
                [before, *blank, before]
            }
            Side::End => {
                let by_blank = S::advanced(blank, &blank_beside[g]);
                [*label, by_blank, S::advanced(label, &label_beside[g])]
            }
        };
        let [enter, leave, jump] = self.weights;
        let labels = S::mul_add(&by_blank, &leave[g], label);
        [S::mul_add(&to_blank, &enter[g], blank), S::mul_add(&by_label, &jump[g], &labels)]
    }
}
