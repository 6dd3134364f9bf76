//! Smoothed deep metric learning: each vector of one batch is to be nearest to its partner in the other.
//!
//! With the squared distances `d_ij` of `x1_i` and `x2_j`, log p the log-softmax of -d along j, and targets `q_ii = 1 - s`
//! and `q_ij = s / (N - 1)` elsewhere: `loss_ij = q_ij (log q_ij - log p_ij)`, where a q of 0 gives 0. With w the derivative
//! of the result with respect to each element of the loss and t = w q, the derivative with respect to `d_ij` is
//! `g_ij = t_ij - p_ij sum_k t_ik`, and the gradients are `2 sum_j g_ij (x1_i - x2_j)` and `2 sum_i g_ij (x2_j - x1_i)`.
//!
//! Source: Apache MXNet Gluon, `SDMLLoss`.

use super::kernel::{
    RowBlocks, MEMORY_LIMIT, BlockOfPairs, PairKernel, Pairs, PairOutputs, batches, matrix,
};
use super::similarity::Similarity;
use super::stream::{Stream, StreamRoom};
use crate::array::{Shape, ViewMut};
use crate::drive::reduced::Reduced;
use crate::drive::scale::Scale;
use crate::drive::weight::Weighting;
use crate::drive::{Axes, Reduction, axis};
use crate::error::{Error, Kind, Result, Tuple};
use crate::math::Real;
use crate::memory;
use crate::registry::{
    Bound, Call, Domain, Family, Gradient, Loss, Options, Plan, Results, SAMPLE_WEIGHT, ShapeRule,
    Spec, Unreduced, float, input,
};
use crate::scratch;
use crate::simd::Isa;
use crate::softmax::Softmax;
use crate::sum::sum;

/// The loss with its parameters.
pub struct Sdml {
    /// The part of the target that is spread over the others.
    pub smoothing: f64,
    /// The bytes that arrays over pairs may have.
    pub memory_limit: usize,
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
    params: &[float("smoothing_parameter", 0.3, Bound::Unit), MEMORY_LIMIT],
    unreduced: Unreduced::Pair,
    hess: false,
    kinks: "",
    build: |p| {
        Ok(Box::new(Sdml {
            smoothing: p.float("smoothing_parameter"),
            memory_limit: p.int("memory_limit").map_or(usize::MAX, |bytes| bytes as usize),
        }))
    },
};

crate::front::typed! {
    /// Smoothed deep metric learning: each vector of one batch is to be nearest to its partner in the other.
    SDMLLoss(x1, x2) { smoothing_parameter: f64, memory_limit: i64 }
}

impl Loss for Sdml {
    fn axes(&self, (name, first): (&str, &[usize]), options: &Options) -> Result<Axes> {
        let error = |expected: &str| {
            let detail = format!("expected {expected}, got shape {}", Tuple(first));
            Error::new(Kind::Shape, name, detail)
        };
        matrix((name, first))?;
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
        let weighting = call.weighting()?;
        let of_rows = weighting.of_sums(1, n);
        let by_row = of_rows.is_some();
        let axes = if by_row { Axes::elementwise(&[n], 0)? } else { axes };
        let batches = batches(call, batch);
        let level = call.level();
        let pairs = Pairs::new(Similarity::SquaredDistance, level, batches, self.memory_limit);
        Ok(Box::new(SdmlPlan {
            smoothing: self.smoothing,
            single: call.single(),
            batch,
            pairs,
            axes,
            weighting: of_rows.unwrap_or(weighting),
            by_row,
        }))
    }
}

struct SdmlPlan<'a> {
    smoothing: f64,
    single: bool,
    batch: usize,
    /// Both batches with the batch axis first.
    pairs: Pairs<'a>,
    /// Those of E, or of the sums of its rows where these are enough.
    axes: Axes,
    weighting: Weighting<'a>,
    by_row: bool,
}

impl SdmlPlan<'_> {
    /// Blocks of rows for what there may be for each pair: slopes, and with weights by element E and its scale. They are the
    /// same for a call that asks for less, and so are its numbers.
    fn blocks<T>(&self) -> RowBlocks {
        let by_element = size_of::<T>() + size_of::<f64>();
        self.pairs.blocks(size_of::<T>() + if self.by_row { 0 } else { by_element })
    }

    fn run_in<T: Real>(&self, mut results: Results<'_>) -> Result<()> {
        let grads = [0, 1].map(|at| results.grads.take(at));
        let grads = grads.map(|g| Some(g?.map(|v| v.move_axis(self.batch, 0))));
        let centre = self.pairs.centre_of::<T>()?;
        let pairs = self.pairs.around(&centre);
        let (blocks, derives) = (self.blocks::<T>(), grads.iter().any(Option::is_some));
        let of_block = if derives { blocks.most() * pairs.shape()[1] } else { 0 };
        scratch::with(|StreamRoom { slopes, .. }: &mut StreamRoom<T>| {
            let stream = Stream::new(&pairs, blocks, grads, slopes.sized(of_block)?)?;
            if self.by_row {
                self.by_row(stream, results.value)
            } else {
                self.by_element(stream, results.value)
            }
        })
    }

    /// With one weight for each row.
    fn by_row<T: Real>(
        &self,
        mut stream: Stream<'_, '_, '_, T>,
        out: Option<ViewMut<'_>>,
    ) -> Result<()> {
        let SdmlPlan { axes, weighting, pairs, .. } = self;
        let reduced = Reduced { axes, weighting, level: pairs.level };
        let mut all = memory::filled(T::ZERO, if out.is_some() { axes.shape[0] } else { 0 })?;
        let mut scale = if stream.derives { reduced.scale()? } else { Scale::All(1.0) };
        let factor = scale.normalise::<T>();
        let kernel = SdmlRows { target: self.targets(), scale, first: 0, by_row: true };
        for rows in stream.blocks.iter() {
            let sums = out.is_some().then(|| &mut all[rows.clone()]);
            let outputs = BlockOfPairs { sums, ..BlockOfPairs::NONE };
            stream.run(&kernel, rows, outputs, factor)?;
        }
        stream.finish(factor)?;
        out.map_or(Ok(()), |out| reduced.value(&all, out))
    }

    /// With a weight for each element of E.
    fn by_element<T: Real>(
        &self,
        mut stream: Stream<'_, '_, '_, T>,
        mut out: Option<ViewMut<'_>>,
    ) -> Result<()> {
        let SdmlPlan { axes, weighting, pairs, .. } = self;
        let (blocks, n) = (stream.blocks, axes.shape[0]);
        let is_total = blocks.several() && weighting.reduction.is_total();
        let divisor = if blocks.several() { Some(weighting.divisor(&axes.shape)?) } else { None };
        if let Some(check) = weighting.weight_check.as_ref().filter(|_| blocks.several()) {
            check.all()?;
        }
        let mut unreduced =
            memory::filled(T::ZERO, if out.is_some() { blocks.most() * n } else { 0 })?;
        let mut totals = memory::filled(0.0, if is_total { n } else { 0 })?;
        let mut factor = 1.0;
        for rows in blocks.iter() {
            let (axes, weighting) = match &divisor {
                Some(divisor) => {
                    let axes = Axes::elementwise(&[rows.len(), n], 0)?;
                    (axes, weighting.of_rows(&rows, divisor))
                }
                None => (axes.clone(), weighting.clone()),
            };
            let reduced = Reduced { axes: &axes, weighting: &weighting, level: pairs.level };
            let mut scale = if stream.derives { reduced.scale()? } else { Scale::All(1.0) };
            factor = scale.normalise::<T>();
            let kernel = SdmlRows { target: self.targets(), scale, first: rows.start, by_row: false };
            let len = rows.len() * n;
            let value = out.is_some().then(|| &mut unreduced[..len]);
            let outputs = BlockOfPairs { value, ..BlockOfPairs::NONE };
            stream.run(&kernel, rows.clone(), outputs, factor)?;
            let out = match &mut out {
                Some(_) if divisor.is_none() => out.take(),
                Some(_) if is_total => {
                    Some(ViewMut::from_slice(&mut totals[rows.clone()], &[rows.len()]))
                }
                out => out.as_mut().map(|out| out.narrow(rows)),
            };
            if let Some(out) = out {
                reduced.value(&unreduced[..len], out)?;
            }
        }
        stream.finish(factor)?;
        if let Some(out) = out.filter(|_| is_total) {
            let (axes, weighting) = (Axes::elementwise(&[n], 0)?, Weighting::new(Reduction::Sum));
            let reduced = Reduced { axes: &axes, weighting: &weighting, level: pairs.level };
            reduced.value(&totals, out)?;
        }
        Ok(())
    }

    /// Of the partner and of the others.
    fn targets(&self) -> [SmoothedTarget; 2] {
        let others = (self.axes.shape[0] as f64 - 1.0).max(1.0);
        [1.0 - self.smoothing, self.smoothing / others].map(SmoothedTarget::new)
    }
}

impl Plan for SdmlPlan<'_> {
    fn value_shape(&self) -> Shape {
        self.axes.value_shape(self.weighting.reduction)
    }
    fn cost(&self) -> f64 {
        self.pairs.cost()
    }
    fn run(&self, results: Results<'_>) -> Result<()> {
        // The weights of one block have a common factor that f32 has room for, those of several blocks have not.
        let by_parts = !self.by_row && self.blocks::<f32>().several();
        if self.single && !by_parts {
            self.run_in::<f32>(results)
        } else {
            self.run_in::<f64>(results)
        }
    }
}

/// A target and its logarithm.
#[derive(Clone, Copy)]
struct SmoothedTarget {
    q: f64,
    log: f64,
}

impl SmoothedTarget {
    fn new(q: f64) -> Self {
        SmoothedTarget { q, log: q.ln() }
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

struct SdmlRows {
    /// Of the partner and of the others.
    target: [SmoothedTarget; 2],
    /// Of each row, or of each element of a block of rows of E.
    scale: Scale,
    /// The first row of the block.
    first: usize,
    by_row: bool,
}

impl<T: Real> PairKernel<T> for SdmlRows {
    const OVERWRITES: bool = false;

    #[inline(always)]
    fn row<S: Isa>(&self, row: usize, distances: &[f64], outputs: PairOutputs<'_, T>) -> T {
        let PairOutputs { value, slopes, wants_sum, scratch: [z, exps, terms] } = outputs;
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
                let weight = T::from_f64(self.scale.of((row - self.first) * distances.len() + col));
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
