//! Connectionist temporal classification as a loss of the registry: layouts, labels and lengths in, checked.

#[cfg(feature = "python")]
use super::arguments;
use super::arguments::{GivenLabels, PRED_LENGTHS, lengths};
use super::compute::ctc;
use super::frames::array::{FrameArray, FrameArrayMut};
use super::frames::pass::InputKind;
use super::labels::LabelSequences;
use super::request::{
    CtcBatch, CtcOptions, CtcOutputs, GradientRows, NO_STATE, PathFrame, PosteriorRows,
};
use crate::array::{Shape, View, ViewMut, short};
use crate::drive::Axes;
use crate::drive::Reduction;
use crate::drive::reduced::Reduced;
use crate::drive::scale::Scale;
use crate::drive::weight::Weighting;
use crate::error::{Error, Kind, Result, Tuple};
use crate::math::Real;
use crate::memory;
use crate::num::DType;
use crate::registry::{Call, Lattice, Loss, Options, Params, PathResults, Plan, Results};
use crate::simd::Level;

/// Rough times, in nanoseconds, for a state and for a class of a frame, by which a call decides whether other Python
/// threads go on meanwhile. They are high, as times are without vector instructions; [`super::compute`] has those of
/// the schedule.
const CALL_STATE_NS: f64 = 4.0;
const CALL_CLASS_NS: f64 = 0.6;

/// Connectionist temporal classification with its parameters.
pub struct CtcLoss {
    /// The axes of samples and frames; none for samples if there is one alone.
    layout: (Option<usize>, usize),
    labels_first: bool,
    blank: Blank,
    input: InputKind,
    infeasible: Infeasible,
    memory_limit: usize,
}

enum Blank {
    First,
    Last,
    Index(usize),
}

#[derive(Clone, Copy, PartialEq)]
enum Infeasible {
    Infinite,
    Zero,
    Raise,
}

impl CtcLoss {
    /// From the registry's parameters.
    pub fn new(params: &Params) -> Self {
        CtcLoss {
            layout: match params.text("layout") {
                "NTC" => (Some(0), 1),
                "TNC" => (Some(1), 0),
                _ => (None, 0),
            },
            labels_first: params.text("label_layout") == "TN",
            blank: match (params.text("blank"), params.int("blank")) {
                (_, Some(index)) => Blank::Index(index as usize),
                ("first", None) => Blank::First,
                _ => Blank::Last,
            },
            input: match params.text("input") {
                "log_probs" => InputKind::LogProbs,
                "log_probs_torch" => InputKind::LogProbsTorch,
                _ => InputKind::Logits,
            },
            infeasible: match params.text("infeasible") {
                "zero" => Infeasible::Zero,
                "raise" => Infeasible::Raise,
                _ => Infeasible::Infinite,
            },
            memory_limit: params.int("memory_limit").map_or(usize::MAX, |bytes| bytes as usize),
        }
    }

    /// A result with axes in the order of the layout, with that of the samples first.
    fn samples_first<'a>(&self, view: ViewMut<'a>) -> ViewMut<'a> {
        match self.layout.0 {
            Some(axis) => view.map(|v| v.move_axis(axis, 0)),
            None => view.map(|v| v.insert_axis(0)),
        }
    }

    fn blank(&self, classes: usize) -> Result<u32> {
        let blank = match self.blank {
            Blank::First => 0,
            Blank::Last => classes.saturating_sub(1),
            Blank::Index(index) => index,
        };
        if blank >= classes {
            let detail = format!("expected a class of pred, below {classes}, got {blank}");
            return Err(Error::new(Kind::Parameter, "blank", detail));
        }
        Ok(blank as u32)
    }
}

impl Loss for CtcLoss {
    fn axes(&self, (name, first): (&str, &[usize]), _: &Options) -> Result<Axes> {
        let (samples, _) = self.layout;
        let rank = 2 + usize::from(samples.is_some());
        if first.len() != rank {
            let detail =
                format!("expected {rank} dimensions by the layout, got shape {}", Tuple(first));
            return Err(Error::new(Kind::Shape, name, detail));
        }
        let axes = samples.map_or_else(Axes::single, |axis| Axes::samples(first[axis]));
        if axes.shape[0] > 0 && first[rank - 1] == 0 {
            let detail = format!("expected at least one class, got shape {}", Tuple(first));
            return Err(Error::new(Kind::Shape, name, detail));
        }
        let mut shape = short(first);
        if samples.is_none() {
            shape.insert(0, 1);
        }
        Ok(Axes { first: shape, samples: samples.unwrap_or(0), class: Some(2), ..axes })
    }

    #[cfg(feature = "python")]
    fn check_shapes<'s>(
        &self,
        axes: &Axes,
        shape: &dyn Fn(&str) -> Option<&'s [usize]>,
    ) -> Result<()> {
        let samples = axes.shape[0];
        if samples > 0 {
            self.blank(axes.first[2])?;
        }
        arguments::check_shapes(shape, samples, self.layout.0.is_none(), self.labels_first)
    }

    fn plan<'a>(&'a self, call: &Call<'a>) -> Result<Box<dyn Plan + 'a>> {
        let (pred, axes) = (call.first(), call.axes.clone());
        let [samples, count] = [axes.shape[0], pred.shape()[self.layout.1]];
        let classes = pred.shape()[pred.shape().len() - 1];
        let blank = if samples > 0 { self.blank(classes)? } else { 0 };
        let mut weighting = call.weighting()?;
        let weight = weighting.take_weights()?;
        let weightless = |n: usize| weight.as_ref().is_some_and(|w| w[n] == 0.0);

        let mut lengths = match lengths(call, PRED_LENGTHS, samples, Some(count))? {
            Some(lengths) => lengths,
            None => memory::filled(count, samples)?,
        };
        let given = GivenLabels::new(call, samples, self.layout.0.is_none(), self.labels_first)?;
        // A sample of weight 0 becomes an empty one, whose labels and frames are not read.
        let labels = given.check(weightless, classes, blank)?;
        lengths
            .iter_mut()
            .enumerate()
            .filter(|(n, _)| weightless(*n))
            .for_each(|(_, len)| *len = 0);
        let raises = self.infeasible == Infeasible::Raise;
        if let Some(n) = (0..samples).find(|&n| raises && labels.frames_needed(n) > lengths[n]) {
            let (needed, own) = (labels.frames_needed(n), labels.sample(n));
            let allowed =
                format!("at least {needed} frames for the {} labels of sample {n}", own.len());
            let name = PRED_LENGTHS;
            let mut error = Error::element(Kind::Length, name, &[n], lengths[n], allowed);
            // Labels that were padded with a class look like this.
            if let [.., last, again] = own
                && last == again
            {
                error.detail += "; padding is -1, or anything at all behind label_lengths";
            }
            return Err(error);
        }
        let by_target = call.options.reduction == Reduction::TargetMean;
        let weight = if by_target {
            let weigh = |n: usize| {
                weight.as_ref().map_or(1.0, |w| w[n]) / labels.sample(n).len().max(1) as f64
            };
            Some(memory::collect((0..samples).map(weigh))?)
        } else {
            weight
        };
        let pred = match self.layout.0 {
            Some(axis) => pred.clone().move_axis(axis, 0),
            None => pred.clone().insert_axis(0),
        };
        let dtype = call.arguments.dtype;
        Ok(Box::new(CtcPlan {
            loss: self,
            level: call.level(),
            dtype,
            axes,
            pred,
            blank,
            lengths,
            labels,
            weight,
            weighting,
        }))
    }
}

struct CtcPlan<'a> {
    loss: &'a CtcLoss,
    level: Level,
    dtype: DType,
    axes: Axes,
    /// Samples, frames, classes.
    pred: View<'a>,
    blank: u32,
    lengths: Vec<usize>,
    labels: LabelSequences,
    /// The weights of the samples, and for the mean by targets their inverse lengths.
    weight: Option<Vec<f64>>,
    weighting: Weighting<'a>,
}

impl Plan for CtcPlan<'_> {
    fn value_shape(&self) -> Shape {
        self.axes.value_shape(self.weighting.reduction)
    }

    fn cost(&self) -> f64 {
        let classes = self.pred.shape()[2] as f64;
        let frames = self.lengths.iter().enumerate();
        frames
            .map(|(n, &frames)| {
                let states = 2.0 * self.labels.sample(n).len() as f64 + 1.0;
                frames as f64 * (CALL_STATE_NS * states + CALL_CLASS_NS * classes)
            })
            .sum()
    }

    fn run(&self, results: Results<'_>) -> Result<()> {
        match self.dtype {
            DType::F64 => self.run_in::<f64>(results),
            _ => self.run_in::<f32>(results),
        }
    }

    fn lattice(&self) -> Option<&dyn Lattice> {
        Some(self)
    }
}

impl Lattice for CtcPlan<'_> {
    fn shapes(&self) -> [Shape; 2] {
        let [samples, frames] = [self.pred.shape()[0], self.pred.shape()[1]];
        let path: Shape = match self.loss.layout.0 {
            None => short(&[frames]),
            Some(0) => short(&[samples, frames]),
            Some(_) => short(&[frames, samples]),
        };
        let mut posteriors = path.clone();
        posteriors.push(self.labels.longest().unwrap_or(0));
        [posteriors, path]
    }

    fn run(&self, results: PathResults<'_>) -> Result<()> {
        match self.dtype {
            DType::F64 => self.run_paths_in::<f64>(results),
            _ => self.run_paths_in::<f32>(results),
        }
    }
}

impl CtcPlan<'_> {
    fn run_in<R: Real>(&self, mut results: Results<'_>) -> Result<()> {
        let shape = self.axes.batch_first();
        let weighting = Weighting {
            sample_weight: self.weight.as_deref().map(|w| View::from_slice(w, &shape)),
            ..self.weighting.clone()
        };
        let reduced = Reduced { axes: &self.axes, weighting: &weighting, level: self.level };
        let grad = results.grads.take(0);
        let scale: Vec<f64> = match (&grad, reduced.scale()?) {
            (None, _) => Vec::new(),
            (_, Scale::All(scale)) => memory::filled(scale, self.lengths.len())?,
            (_, Scale::Each(scales)) => scales,
        };
        let rows = grad.map(|view| output_rows::<R>(self.loss.samples_first(view))).transpose()?;
        let mut losses = self.compute(&CtcOutputs {
            grad: rows.as_ref().map(|rows| GradientRows { rows, scale: &scale }),
            ..CtcOutputs::default()
        })?;
        if self.loss.infeasible == Infeasible::Zero {
            losses.iter_mut().filter(|loss| **loss == f64::INFINITY).for_each(|loss| *loss = 0.0);
        }
        if let Some(value) = results.value {
            reduced.value(&losses, value)?;
        }
        Ok(())
    }

    fn run_paths_in<R: Real>(&self, results: PathResults<'_>) -> Result<()> {
        let count = self.pred.shape()[0] * self.pred.shape()[1];
        let path = || memory::collect((0..count).map(|_| PathFrame::new()));
        let path = results.alignment.as_ref().map(|_| path()).transpose()?;
        let posteriors = results.posteriors.map(|view| self.loss.samples_first(view));
        let rows = posteriors.map(output_rows::<R>).transpose()?;
        self.compute(&CtcOutputs {
            grad: None,
            posteriors: rows.as_ref().map(|rows| PosteriorRows { rows, blanks: false }),
            alignment: path.as_deref(),
        })?;
        if let (Some(out), Some(path)) = (results.alignment, &path) {
            let [index, log_prob, posterior] = out.map(|view| self.loss.samples_first(view));
            let numbers = |of: fn(&PathFrame) -> f64| memory::collect(path.iter().map(of));
            index.copy_from(&numbers(label_index)?);
            log_prob.copy_from(&numbers(PathFrame::log_prob)?);
            posterior.copy_from(&numbers(PathFrame::posterior)?);
        }
        Ok(())
    }

    fn compute<R: Real>(&self, outputs: &CtcOutputs<'_, R>) -> Result<Vec<f64>> {
        let converted;
        let frames = if let Some(rows) = FrameArray::new(self.pred.clone()) {
            rows
        } else {
            // The inputs are of a type that losses are not computed in, as integers are.
            converted = self.pred.to_vec::<f64>()?;
            let view = View::from_slice(&converted, self.pred.shape());
            FrameArray::new(view).ok_or_else(|| {
                Error::new(Kind::DType, "pred", "expected numbers of the result's type")
            })?
        };
        let batch = CtcBatch {
            frames,
            input: self.loss.input,
            blank: self.blank,
            lengths: &self.lengths,
            labels: &self.labels,
        };
        let options =
            CtcOptions { level: self.level, parallel: true, memory_limit: self.loss.memory_limit };
        ctc(&batch, outputs, &options)
    }
}

/// The rows of a result.
fn output_rows<R: Real>(view: ViewMut<'_>) -> Result<FrameArrayMut<'_, R>> {
    FrameArrayMut::new(view)
        .ok_or_else(|| Error::new(Kind::Output, "grad_out", "unexpected layout"))
}

/// Which label of its sequence the state of a frame is; -1 for blanks and for frames without a state.
fn label_index(frame: &PathFrame) -> f64 {
    match frame.state() {
        NO_STATE => -1.0,
        state if state % 2 == 0 => -1.0,
        state => f64::from(state / 2),
    }
}
