//! Smoothed deep metric learning: each vector of one batch is to be nearest to its partner in the other.
//!
//! With the squared distances `d_ij` of `x1_i` and `x2_j`, log p the log-softmax of -d along j, and targets `q_ii = 1 - s`
//! and `q_ij = s / (N - 1)` elsewhere: `loss_ij = q_ij (log q_ij - log p_ij)`, where a q of 0 gives 0. With w the derivative
//! of the result with respect to each element of the loss and t = w q, the derivative with respect to `d_ij` is
//! `g_ij = t_ij - p_ij sum_k t_ik`, and the gradients are `2 sum_j g_ij (x1_i - x2_j)` and `2 sum_i g_ij (x2_j - x1_i)`.
//!
//! Source: Apache MXNet Gluon, `SDMLLoss`.

use super::kernel::{Outputs, PairKernel, Pairs, RowOutputs};
use crate::array::{Shape, View};
use crate::drive::reduced::Reduced;
use crate::drive::scale::Scale;
use crate::drive::weight::Weighting;
use crate::drive::{Axes, axis};
use crate::error::{Error, Kind, Result, Tuple};
use crate::math::Real;
use crate::memory;
use crate::registry::{
    Bound, Call, Domain, Family, Gradient, Loss, Options, Plan, Results, SAMPLE_WEIGHT, ShapeRule,
    Spec, Unreduced, float, input,
};
use crate::simd::{Isa, Level};
use crate::softmax::Softmax;
use crate::sum::sum;

/// The loss with its parameters.
pub struct Sdml {
    /// The part of the target that is spread over the others.
    pub smoothing: f64,
}

/// The row of the registry.
pub const SPEC: Spec = Spec {
    name: "SDMLLoss",
    family: Family::Pairwise,
    inputs: &[
        input("x1", Domain::Real, Gradient::Default).shaped(ShapeRule::First),
        input("x2", Domain::Real, Gradient::Default).shaped(ShapeRule::Exact),
        SAMPLE_WEIGHT,
    ],
    params: &[float("smoothing_parameter", 0.3, Bound::Unit)],
    unreduced: Unreduced::Pair,
    hess: false,
    kinks: "",
    build: |p| Ok(Box::new(Sdml { smoothing: p.float("smoothing_parameter") })),
};

crate::front::typed! {
    /// Smoothed deep metric learning: each vector of one batch is to be nearest to its partner in the other.
    SDMLLoss(x1, x2) { smoothing_parameter: f64 }
}

impl Loss for Sdml {
    fn axes(&self, (name, first): (&str, &[usize]), options: &Options) -> Result<Axes> {
        let error = |expected: &str| {
            let detail = format!("expected {expected}, got shape {}", Tuple(first));
            Error::new(Kind::Shape, name, detail)
        };
        if first.len() != 2 {
            return Err(error("two dimensions"));
        }
        let batch = axis("batch_axis", options.batch_axis, first)?;
        let n = first[batch];
        if n == 1 {
            return Err(error("at least two samples to tell from each other"));
        }
        // The loss has an element for every pair, as arrays have: no more bytes than an address can count.
        if n.checked_mul(n).is_none_or(|pairs| pairs > isize::MAX as usize / size_of::<f64>()) {
            return Err(error("fewer samples, whose pairs can be counted"));
        }
        Axes::pairs(n, first, batch)
    }

    fn plan<'a>(&'a self, call: &Call<'a>) -> Result<Box<dyn Plan + 'a>> {
        let axes = call.axes.clone();
        let (batch, n) = (axes.samples, axes.shape[0]);
        let weighting = call.weighting(&axes)?;
        let of_rows = weighting.of_sums(1, n);
        let by_row = of_rows.is_some();
        let axes = if by_row { Axes::elementwise(&[n], 0)? } else { axes };
        let batches = [0, 1]
            .map(|at| call.argument(at, |given| Some(given.clone().move_axis(batch, 0))).view);
        Ok(Box::new(SdmlPlan {
            smoothing: self.smoothing,
            level: call.level(),
            single: call.single(),
            batch,
            batches,
            axes,
            weighting: of_rows.unwrap_or(weighting),
            by_row,
        }))
    }
}

struct SdmlPlan<'a> {
    smoothing: f64,
    level: Level,
    single: bool,
    batch: usize,
    /// Both with the batch axis first.
    batches: [View<'a>; 2],
    /// Those of E, or of the sums of its rows where these are enough.
    axes: Axes,
    weighting: Weighting<'a>,
    by_row: bool,
}

impl SdmlPlan<'_> {
    fn pairs(&self) -> Pairs<'_> {
        Pairs { level: self.level, batches: &self.batches }
    }

    fn run_in<T: Real>(&self, results: Results<'_>) -> Result<()> {
        let SdmlPlan { axes, weighting, level, .. } = self;
        let reduced = Reduced { axes, weighting, level: *level };
        let n = self.batches[0].shape()[0];
        let [first, second, ..] = results.grads;
        let derives = first.is_some() || second.is_some();
        let len = axes.shape.iter().product();
        let mut unreduced = memory::filled(T::ZERO, if results.value.is_some() { len } else { 0 })?;
        let mut slopes = memory::filled(T::ZERO, if derives { n * n } else { 0 })?;
        let value = results.value.is_some().then_some(&mut unreduced[..]);
        let (value, sums) = if self.by_row { (None, value) } else { (value, None) };
        let others = (n as f64 - 1.0).max(1.0);
        let mut scale = if derives { reduced.scale()? } else { Scale::All(1.0) };
        let factor = scale.normalise::<T>();
        let kernel = Rows {
            target: [1.0 - self.smoothing, self.smoothing / others].map(Target::new),
            scale,
            by_row: self.by_row,
        };
        let slopes_out = derives.then_some(&mut slopes[..]);
        self.pairs().rows(&kernel, Outputs { value, sums, slopes: slopes_out })?;
        if derives {
            let grads = [first, second].map(|g| Some(g?.map(|v| v.move_axis(self.batch, 0))));
            self.pairs().gradients(&slopes, factor, grads.each_ref().map(Option::as_ref))?;
        }
        if let Some(value) = results.value {
            reduced.value(&unreduced, value)?;
        }
        Ok(())
    }
}

impl Plan for SdmlPlan<'_> {
    fn value_shape(&self) -> Shape {
        self.axes.value_shape(self.weighting.reduction)
    }
    fn cost(&self) -> f64 {
        self.pairs().cost()
    }
    fn run(&self, results: Results<'_>) -> Result<()> {
        if self.single { self.run_in::<f32>(results) } else { self.run_in::<f64>(results) }
    }
}

/// A target and its logarithm.
#[derive(Clone, Copy)]
struct Target {
    q: f64,
    log: f64,
}

impl Target {
    fn new(q: f64) -> Self {
        Target { q, log: q.ln() }
    }

    /// q (log q - log p), in f64, which has room for distances of which f32 holds a small part only.
    #[inline(always)]
    fn loss(self, distance: f64, nearest: f64, log_sum: f64) -> f64 {
        let gap = distance - nearest;
        let surprise = if distance == nearest { log_sum } else { gap + log_sum };
        let nothing = self.q == 0.0 && !surprise.is_nan();
        let loss = self.q * (self.log + surprise);
        if nothing { 0.0 } else { loss }
    }
}

struct Rows {
    /// Of the partner and of the others.
    target: [Target; 2],
    /// Of each row, or of each element of E.
    scale: Scale,
    by_row: bool,
}

impl<T: Real> PairKernel<T> for Rows {
    #[inline(always)]
    fn row<S: Isa>(&self, row: usize, distances: &[f64], outputs: RowOutputs<'_, T>) -> T {
        let RowOutputs { value, slopes, wants_sum, scratch: [z, exps, terms] } = outputs;
        let [partner, other] = self.target;
        // Relative to the nearest the rounding is that of the differences.
        let nearest = least(distances);
        for (z, &distance) in z.iter_mut().zip(distances) {
            *z = T::from_f64(nearest - distance);
        }
        let softmax = Softmax::of::<S>(z, exps);
        let log_sum = Real::log1p::<S>(softmax.others);
        let mut sum_of_row = T::ZERO;
        if value.is_some() || wants_sum {
            let value = value.unwrap_or(&mut *terms);
            for (value, &distance) in value.iter_mut().zip(distances) {
                *value = T::from_f64(other.loss(distance, nearest, log_sum));
            }
            value[row] = T::from_f64(partner.loss(distances[row], nearest, log_sum));
            sum_of_row = T::from_f64(sum::<S, T>(value));
        }
        let Some(slopes) = slopes else { return sum_of_row };

        let (scale, t) = if self.by_row { (self.scale.of(row), terms) } else { (1.0, terms) };
        t.fill(T::from_f64(other.q));
        t[row] = T::from_f64(partner.q);
        let mut counts = scale != 0.0;
        if !self.by_row {
            counts = false;
            for (col, t) in t.iter_mut().enumerate() {
                let weight = T::from_f64(self.scale.of(row * distances.len() + col));
                *t = t.weighted(weight);
                counts |= weight != T::ZERO;
            }
        }
        if counts {
            slopes.copy_from_slice(exps);
            softmax.pull(t, sum::<S, T>(t), slopes, -scale);
        } else {
            slopes.fill(T::ZERO);
        }
        sum_of_row
    }
}

/// The least of some numbers >= 0; NaN is passed over.
#[inline(always)]
fn least(x: &[f64]) -> f64 {
    let (chunks, rest) = x.as_chunks::<16>();
    let mut lanes = [f64::INFINITY; 16];
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = if x < *lane { x } else { *lane };
        }
    }
    lanes.iter().chain(rest).fold(f64::INFINITY, |least, &x| if x < least { x } else { least })
}
