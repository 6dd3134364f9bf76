//! Continuous ranked probability score of an ensemble.
//!
//! With M members `x_i` and the label y: `loss = 1 / M sum_i |x_i - y| - 1 / (2 M^2) sum_ij |x_i - x_j|`, which is the integral
//! of `(F(z) - [z >= y])^2` over z, F the share of members up to z. In order of size the integral is a sum over the gaps
//! between members, of which none is negative: it is computed so, in O(M log M) and without cancellation. The fair score
//! has `1 / (2 M (M - 1))` in front of the second sum and does not favour small ensembles; it takes that much more of the
//! members' mean distance away. Of one member both are the distance to the label.
//!
//! The gradient with respect to `x_i` is `sign(x_i - y) / M - (less_i - more_i) / M^2`, with the numbers of members less and
//! more than `x_i` (`M (M - 1)` for M^2 in the fair score), with respect to y `sum_i sign(y - x_i) / M`; equal numbers count
//! as neither. There is no diagonal second derivative to give.
//!
//! Source: Gneiting and Raftery, "Strictly Proper Scoring Rules, Prediction, and Estimation" (2007); Ferro, "Fair scores for
//! ensemble forecasts" (2014).

use super::AXIS;
use super::plan::plan;
use crate::drive::Axes;
use crate::drive::row_kernel::{Row, RowKernel, RowOutputs, Scratch};
use crate::error::{Error, Kind, Result, Tuple};
use crate::math::Real;
use crate::memory;
use crate::registry::{
    Call, Domain, Family, Loss, Options, Plan, SAMPLE_WEIGHT, ShapeRule, Spec, Unreduced, flag,
    label, pred,
};
use crate::simd::Isa;
use crate::sum::ExactSum;

/// The row of the registry.
pub const SPEC: Spec = Spec {
    name: "CRPSLoss",
    family: Family::Rowwise,
    inputs: &[pred(Domain::Real), label(Domain::Real).shaped(ShapeRule::PerVector), SAMPLE_WEIGHT],
    params: &[flag("fair", false), AXIS],
    unreduced: Unreduced::Row,
    hess: false,
    kinks: "pred == label, and where two members are equal",
    build: |p| {
        let axis = p.int(AXIS.name).unwrap_or(-1) as isize;
        Ok(Box::new(Crps { fair: p.flag("fair"), axis }))
    },
};

crate::front::typed! {
    /// Continuous ranked probability score of an ensemble.
    CRPSLoss(pred, label) { fair: bool, axis: i64 }
}

/// The score with its parameters.
#[derive(Clone, Copy)]
struct Crps {
    fair: bool,
    axis: isize,
}

impl Loss for Crps {
    fn axes(&self, first: (&str, &[usize]), options: &Options) -> Result<Axes> {
        let axes = Axes::rowwise(first, self.axis, options.batch_axis)?;
        if axes.has_empty_vectors() {
            let detail = format!(
                "expected at least one member of the ensemble, got shape {}",
                Tuple(first.1)
            );
            return Err(Error::new(Kind::Shape, first.0, detail));
        }
        Ok(axes)
    }
    fn plan<'a>(&'a self, call: &Call<'a>) -> Result<Box<dyn Plan + 'a>> {
        plan::<_, 1, 1>(*self, call)
    }
}

/// The sign of x - y, where both may be infinite.
#[inline(always)]
fn sign(x: f64, y: f64) -> f64 {
    f64::from(i8::from(x > y) - i8::from(x < y))
}

/// The members in order of size, with their places in the row.
#[derive(std::default::Default)]
struct Members(Vec<(f64, u32)>);

impl Scratch for Members {
    fn fit(&mut self, members: usize) -> Result<()> {
        memory::grow(&mut self.0, members, (0.0, 0))
    }
}

impl<T: Real> RowKernel<T, 1, 1> for Crps {
    const COST: f64 = 8.0;
    type Scratch = Members;

    #[inline(always)]
    fn row<S: Isa>(
        &self,
        Row { vectors: [x], numbers: [y], .. }: Row<'_, T, 1, 1>,
        outputs: RowOutputs<'_, T, 1, 1>,
        Members(sorted): &mut Members,
        scale: f64,
    ) -> T {
        let RowOutputs { grads: [grad], number_grads: [label_grad], .. } = outputs;
        let (count, y) = (x.len() as f64, y.to_f64());
        for (i, (member, x)) in (0..).zip(sorted.iter_mut().zip(x)) {
            *member = (x.to_f64(), i);
        }
        if y.is_nan() || x.iter().any(|x| x.is_nan()) {
            if let Some(grad) = grad {
                grad.fill(T::NAN);
            }
            if let Some(grad) = label_grad {
                *grad = T::NAN;
            }
            return T::NAN;
        }
        sorted.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
        let pairs = if self.fair { count * (count - 1.0).max(1.0) } else { count * count };
        if let Some(grad) = grad {
            let mut first = 0;
            while first < sorted.len() {
                let member = sorted[first].0;
                let equal = sorted[first..].iter().take_while(|m| m.0 == member).count();
                let (less, more) = (first as f64, (sorted.len() - first - equal) as f64);
                let slope = sign(member, y) / count - (less - more) / pairs;
                for &(_, at) in &sorted[first..first + equal] {
                    grad[at as usize] = T::from_f64(slope * scale);
                }
                first += equal;
            }
        }
        if let Some(grad) = label_grad {
            let signs: f64 = sorted.iter().map(|m| sign(y, m.0)).sum();
            *grad = T::from_f64(signs / count * scale);
        }
        T::from_f64(self.score(sorted, y))
    }

    #[expect(clippy::disallowed_methods, reason = "a few numbers")]
    fn kinks(&self, Row { vectors: [x], numbers: [y], .. }: Row<'_, f64, 1, 1>) -> Vec<f64> {
        let pairs = (0..x.len()).flat_map(|i| (0..i).map(move |j| (i, j)));
        x.iter().map(|x| x - y).chain(pairs.map(|(i, j)| x[i] - x[j])).collect()
    }
}

impl Crps {
    /// The score of members in order of size.
    fn score(self, sorted: &[(f64, u32)], y: f64) -> f64 {
        let count = sorted.len() as f64;
        let gap = |from: f64, to: f64| if from == to { 0.0 } else { to - from };
        let (mut score, mut spread) = (ExactSum::default(), ExactSum::default());
        let (Some(low), Some(high)) = (sorted.first(), sorted.last()) else { return 0.0 };
        // Outside of the ensemble nothing or all of it is on one side.
        score.add(if y < low.0 { gap(y, low.0) } else { 0.0 });
        score.add(if y > high.0 { gap(high.0, y) } else { 0.0 });
        for (i, pair) in sorted.windows(2).enumerate() {
            let (from, to) = (pair[0].0, pair[1].0);
            let below = (i + 1) as f64 / count;
            let above = (sorted.len() - i - 1) as f64 / count;
            let split = y.clamp(from, to);
            score.add(gap(from, split) * below * below);
            score.add(gap(split, to) * above * above);
            spread.add(gap(from, to) * (below * above));
        }
        if self.fair && count > 1.0 {
            // 1 / (2 M (M - 1)) - 1 / (2 M^2) times twice the sum over pairs, which is M^2 times the spread.
            score.add(-spread.total() / (count - 1.0));
        }
        score.total()
    }
}
