//! `InfoNCE`, with both directions the loss of CLIP: each vector of one batch is to be most similar to its partner in
//! the other.
//!
//! With the logits `l_ij = sim(x1_i, x2_j) / temperature` and p the softmax of a row of them: `loss_i = -log p_ii`; with
//! both directions it is the mean of that and of the same for column i. With p' the softmax of a column, w the derivative
//! of the result with respect to each element of the loss and `d_ij` = 1 for i = j, else 0, the derivative with respect
//! to the similarity is `g_ij = (w_i (p_ij - d_ij) + w_j (p'_ij - d_ij)) / (2 temperature)`, or that of the first term alone,
//! not halved. A vector that is exactly zero has the cosine 0 and the gradient 0.
//!
//! Similarities are rounded to the type of computation, which a temperature makes larger; from there on what is added up or
//! cancels is in f64.
//!
//! Sources: van den Oord et al., Representation learning with contrastive predictive coding, 2018; Radford et al.,
//! Learning transferable visual models from natural language supervision, 2021.

use super::columns::{PairColumns, Line};
use super::kernel::{RowBlocks, MEMORY_LIMIT, BlockOfPairs, PairKernel, Pairs, PairOutputs, batches, matrix};
use super::similarity::Similarity;
use super::stream::{Stream, StreamRoom};
use super::units::by_units;
use crate::array::{Shape, View, ViewMut};
use crate::drive::Axes;
use crate::drive::reduced::Reduced;
use crate::drive::scale::Scale;
use crate::drive::weight::Weighting;
use crate::error::{Error, Kind, Number, Result};
use crate::math::Real;
use crate::memory;
use crate::num::Float;
use crate::registry::{
    Bound, Call, Default, Domain, Family, Gradient, Accepts, Loss, Options, Plan, Results,
    SAMPLE_WEIGHT, ShapeRule, Spec, Unreduced, flag, float, input, param,
};
use crate::scratch;
use crate::simd::{Isa, Level};

/// The loss with its parameters.
#[derive(Clone, Copy)]
pub struct InfoNce {
    temperature: f64,
    /// Whether vectors are compared by their cosine, and not by their dot product.
    cosine: bool,
    /// Whether columns count too.
    symmetric: bool,
    memory_limit: usize,
}

/// The row of the registry.
pub const SPEC: Spec = Spec {
    name: "InfoNCELoss",
    family: Family::Pairwise,
    inputs: &[
        input("x1", Domain::Real, Gradient::Default).shaped(ShapeRule::First),
        input("x2", Domain::Real, Gradient::Default).shaped(ShapeRule::Exact),
        SAMPLE_WEIGHT,
    ],
    params: &[
        float("temperature", 0.07, Bound::Positive),
        param("similarity", Default::Text("cosine"), Accepts::Choice(&["cosine", "dot"])),
        flag("symmetric", true),
        MEMORY_LIMIT,
    ],
    unreduced: Unreduced::Sample,
    hess: false,
    kinks: "",
    build: |p| {
        let temperature = p.float("temperature");
        if (1.0 / temperature).is_infinite() {
            let got = Number::Float(temperature);
            let detail = format!("expected a number whose inverse a float64 has room for, got {got}");
            return Err(Error::new(Kind::Parameter, "temperature", detail));
        }
        Ok(Box::new(InfoNce {
            temperature,
            cosine: p.text("similarity") == "cosine",
            symmetric: p.flag("symmetric"),
            memory_limit: p.int("memory_limit").map_or(usize::MAX, |bytes| bytes as usize),
        }))
    },
};

crate::front::typed! {
    /// InfoNCE: cross-entropy of the similarities of two batches, each vector's partner being its class.
    InfoNCELoss(x1, x2) { temperature: f64, similarity: &str, symmetric: bool, memory_limit: i64 }
}

impl Loss for InfoNce {
    fn axes(&self, first: (&str, &[usize]), options: &Options) -> Result<Axes> {
        matrix(first)?;
        Axes::samplewise(first.1, options.batch_axis)
    }

    fn plan<'a>(&'a self, call: &Call<'a>) -> Result<Box<dyn Plan + 'a>> {
        let axes = call.axes.clone();
        Ok(Box::new(InfoNcePlan {
            loss: *self,
            single: call.single(),
            level: call.level(),
            batches: batches(call, axes.samples),
            weighting: call.weighting()?,
            axes,
        }))
    }
}

struct InfoNcePlan<'a> {
    loss: InfoNce,
    single: bool,
    level: Level,
    /// Both with the batch axis first.
    batches: [View<'a>; 2],
    axes: Axes,
    weighting: Weighting<'a>,
}

impl InfoNcePlan<'_> {
    fn run_in<T: Real>(&self, mut results: Results<'_>) -> Result<()> {
        let InfoNcePlan { loss, level, batches, axes, weighting, .. } = self;
        let reduced = Reduced { axes, weighting, level: *level };
        let grads = [0, 1].map(|at| results.grads.take(at));
        let grads = grads.map(|g| Some(g?.map(|v| v.move_axis(axes.samples, 0))));
        let derives = grads.iter().any(Option::is_some);
        let mut scale = if derives { reduced.scale()? } else { Scale::All(1.0) };
        let factor = scale.normalise::<T>() / loss.temperature;
        let mut losses = memory::filled(T::ZERO, axes.shape[0])?;
        let of_block = self.blocks::<T>(batches).most() * batches[1].shape()[0];
        scratch::with(|StreamRoom { slopes, units }: &mut StreamRoom<T>| {
            let slopes = slopes.sized(of_block)?;
            if loss.cosine {
                by_units(*level, batches, grads, factor, units, |x, grads| {
                    self.by_products(x, grads, slopes, scale, 1.0, &mut losses)
                })
            } else {
                self.by_products(batches.clone(), grads, slopes, scale, factor, &mut losses)
            }
        })?;
        results.value.map_or(Ok(()), |value| reduced.value(&losses, value))
    }

    /// Whether f32 has room for all similarities of vectors that are finite.
    fn fit_single(&self) -> bool {
        const INFINITE: i32 = f32::INFINITY.to_bits().cast_signed();
        let most = self.batches.each_ref().map(|view| {
            let mut most = 0;
            view.each_block::<f32>(|_, x| {
                // The order of sizes is that of their bits, as signed integers, which every level compares by vectors.
                for size in x.iter().map(|x| x.abs().to_bits().cast_signed()) {
                    most = most.max(if size < INFINITE { size } else { 0 });
                }
            });
            f64::from(f32::from_bits(most.cast_unsigned()))
        });
        let elements = self.batches[0].shape()[1] as f64;
        most[0] * most[1] * elements < f64::from(f32::MAX)
    }

    fn pairs<'b>(&self, batches: [View<'b>; 2]) -> Pairs<'b> {
        Pairs::new(Similarity::DotProduct, self.level, batches, self.loss.memory_limit)
    }

    /// As many without gradients, so that the losses are the same.
    fn blocks<T>(&self, batches: &[View<'_>; 2]) -> RowBlocks {
        self.pairs(batches.clone()).blocks(size_of::<T>())
    }

    /// Fills E, and the gradients with respect to vectors that are compared by their dot product, times `factor`.
    fn by_products<T: Real>(
        &self,
        batches: [View<'_>; 2],
        grads: [Option<ViewMut<'_>>; 2],
        slopes: &mut [T],
        scale: Scale,
        factor: f64,
        losses: &mut [T],
    ) -> Result<()> {
        let InfoNce { temperature, symmetric, .. } = self.loss;
        let blocks = self.blocks::<T>(&batches);
        let pairs = self.pairs(batches);
        let mut stream = Stream::new(&pairs, blocks, grads, slopes)?;
        let columns = symmetric.then(|| PairColumns::of(&mut stream, temperature)).transpose()?;
        let are_there = symmetric && !blocks.several();
        let kernel = InfoNceRows::new(temperature, scale, columns)?;
        for rows in blocks.iter() {
            if !are_there {
                stream.similarities(rows.clone())?;
            }
            let sums = Some(&mut losses[rows.clone()]);
            stream.run(&kernel, rows, BlockOfPairs { sums, ..BlockOfPairs::NONE }, factor)?;
        }
        stream.finish(factor)
    }
}

impl Plan for InfoNcePlan<'_> {
    fn value_shape(&self) -> Shape {
        self.axes.value_shape(self.weighting.reduction)
    }
    fn cost(&self) -> f64 {
        self.pairs(self.batches.clone()).cost()
    }
    fn run(&self, results: Results<'_>) -> Result<()> {
        if self.single && (self.loss.cosine || self.fit_single()) {
            self.run_in::<f32>(results)
        } else {
            self.run_in::<f64>(results)
        }
    }
}

/// The rows of the matrix of logits.
struct InfoNceRows {
    temperature: f64,
    /// Of each sample, halved if there are two directions.
    scale: Scale,
    columns: Option<PairColumns>,
    /// What exponentials of each column are multiplied by to be derivatives.
    by_column: Vec<f64>,
}

impl InfoNceRows {
    fn new(temperature: f64, mut scale: Scale, columns: Option<PairColumns>) -> Result<Self> {
        let mut by_column = Vec::new();
        if let Some(columns) = &columns {
            match &mut scale {
                Scale::All(scale) => *scale /= 2.0,
                Scale::Each(scales) => scales.iter_mut().for_each(|scale| *scale /= 2.0),
            }
            let derivative = |(j, others)| scale.of(j) / (1.0 + others);
            by_column = memory::collect(columns.others.iter().enumerate().map(derivative))?;
        }
        Ok(InfoNceRows { temperature, scale, columns, by_column })
    }
}

impl<T: Real> PairKernel<T> for InfoNceRows {
    const OVERWRITES: bool = true;

    #[inline(always)]
    fn row<S: Isa>(&self, row: usize, x: &[f64], outputs: PairOutputs<'_, T>) -> T {
        let PairOutputs { slopes, scratch: [logits, exps, ..], .. } = outputs;
        let (partner, temperature) = (x[row], self.temperature);
        let of_row = Line::of::<S>(x, temperature, logits, exps);
        let mut loss = of_row.loss::<S>(partner, temperature);
        let of_column = self.columns.as_ref().map(|c| (c, c.line::<T>(row, (row, partner))));
        if let Some((_, of_column)) = &of_column {
            loss = f64::midpoint(loss, of_column.loss::<S>(partner, temperature));
        }
        let Some(slopes) = slopes else { return T::from_f64(loss) };

        let scale = self.scale.of(row);
        // A row that does not count may hold anything.
        let by_row = T::from_f64(of_row.softmax.inverse().weighted(scale));
        for (slope, &exp) in slopes.iter_mut().zip(&*exps) {
            *slope = exp.weighted(by_row);
        }
        let mut of_partner = of_row.softmax.complement(row, exps[row]).weighted(scale);
        if let Some((columns, of_column)) = of_column {
            let by_column = self.by_column.iter().zip(&columns.max);
            for ((slope, &x), (&by_column, &max)) in slopes.iter_mut().zip(x).zip(by_column) {
                *slope += columns.exp::<S, T>(x, max).weighted(T::from_f64(by_column));
            }
            let exp = columns.exp::<S, T>(partner, columns.max[row]);
            of_partner += of_column.softmax.complement(row, exp).weighted(scale);
        }
        slopes[row] = T::from_f64(-of_partner);
        T::from_f64(loss)
    }
}
