//! Connectionist temporal classification as a loss of the registry: layouts, labels and lengths in, checked.

use super::arguments::{GivenLabels, PRED_LENGTHS, lengths};
use super::rows::{Element, Layout, Rows, RowsMut};
use super::{
    Alignment, Batch, Gradient, Input, Labels, NO_STATE, Options, Outputs, Posteriors, ctc,
};
use crate::error::{Error, Kind, Result};
use crate::losses::call::{Axes, Call, Lattice, Loss, PathResults, Plan, Results};
use crate::losses::rowwise::reduced::Reduced;
use crate::losses::rowwise::scale::Scale;
use crate::losses::spec::Params;
use crate::reduce::Reduction;
use crate::simd::Level;
use crate::view::{DType, Shape, View, ViewMut};
use crate::weight::Weighting;
use half::{bf16, f16};
use smallvec::smallvec;

/// Rough times, in nanoseconds, for a state and for a class of a frame.
const STATE_NS: f64 = 4.0;
const CLASS_NS: f64 = 0.6;

/// Connectionist temporal classification with its parameters.
pub struct Ctc {
    /// The axes of samples and frames; none for samples if there is one alone.
    layout: (Option<usize>, usize),
    labels_first: bool,
    blank: Blank,
    input: Input,
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

impl Ctc {
    /// From the registry's parameters.
    pub fn new(params: &Params) -> Self {
        Ctc {
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
                "log_probs" => Input::LogProbs,
                "log_probs_torch" => Input::LogProbsTorch,
                _ => Input::Logits,
            },
            infeasible: match params.text("infeasible") {
                "zero" => Infeasible::Zero,
                "raise" => Infeasible::Raise,
                _ => Infeasible::Infinite,
            },
            memory_limit: params.int("memory_limit").map_or(usize::MAX, |bytes| bytes as usize),
        }
    }

    fn axes_of(&self, pred: &[usize]) -> Result<(Axes, [usize; 2])> {
        let (samples, frames) = self.layout;
        let rank = 2 + usize::from(samples.is_some());
        if pred.len() != rank {
            let detail = format!("expected {rank} dimensions by the layout, got shape {pred:?}");
            return Err(Error::new(Kind::Shape, "pred", detail));
        }
        let n = samples.map_or(1, |axis| pred[axis]);
        let axes = match samples {
            Some(_) => Axes::samples(n),
            None => Axes::single(),
        };
        Ok((axes, [n, pred[frames]]))
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

impl Loss for Ctc {
    fn plan<'a>(&'a self, call: &Call<'a>) -> Result<Box<dyn Plan + 'a>> {
        let pred = call.input(0);
        let (axes, [samples, count]) = self.axes_of(pred.shape())?;
        let classes = pred.shape()[pred.shape().len() - 1];
        let blank = if samples > 0 { self.blank(classes)? } else { 0 };
        let mut weighting = axes.weighting(call)?;
        let weight = weighting.take_weights()?;
        let weightless = |n: usize| weight.as_ref().is_some_and(|w| w[n] == 0.0);

        let mut lengths =
            lengths(call, PRED_LENGTHS, samples, count)?.unwrap_or(vec![count; samples]);
        let given = GivenLabels::new(call, samples, self.layout.0.is_none(), self.labels_first)?;
        let (mut flat, mut offsets) = (Vec::new(), vec![0]);
        for n in 0..samples {
            // A sample of weight 0 is not looked at: it becomes an empty one.
            if weightless(n) {
                lengths[n] = 0;
            } else {
                given.push(n, classes, blank, &mut flat)?;
            }
            offsets.push(flat.len());
        }
        let Some(labels) = Labels::new(flat, offsets) else {
            return Err(Error::new(
                Kind::Shape,
                call.names[1],
                "expected sequences one behind another",
            ));
        };
        let raises = self.infeasible == Infeasible::Raise;
        if let Some(n) = (0..samples).find(|&n| raises && labels.frames_needed(n) > lengths[n]) {
            let allowed = format!(
                "at least {} frames for the {} labels of sample {n}",
                labels.frames_needed(n),
                labels.sample(n).len()
            );
            let (name, value) = (call.names[PRED_LENGTHS], lengths[n] as f64);
            return Err(Error::element(Kind::Length, name, &[n], value, allowed));
        }
        let by_target = call.options.reduction == Reduction::TargetMean;
        let weight = if by_target {
            let weigh = |n: usize| {
                weight.as_ref().map_or(1.0, |w| w[n]) / labels.sample(n).len().max(1) as f64
            };
            Some((0..samples).map(weigh).collect())
        } else {
            weight
        };
        let pred = match self.layout.0 {
            Some(axis) => pred.clone().move_axis(axis, 0),
            None => pred.clone().insert_axis(0),
        };
        let dtype = call.dtype;
        Ok(Box::new(CtcPlan {
            loss: self,
            level: call.level,
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
    loss: &'a Ctc,
    level: Level,
    dtype: DType,
    axes: Axes,
    /// Samples, frames, classes.
    pred: View<'a>,
    blank: u32,
    lengths: Vec<usize>,
    labels: Labels,
    /// The weights of the samples, and for the mean by targets their inverse lengths.
    weight: Option<Vec<f64>>,
    weighting: Weighting<'a>,
}

/// Calls `$plan.$run::<E>($results)` with the element type of the plan.
macro_rules! run_in_element {
    ($plan:expr, $run:ident, $results:expr) => {
        match $plan.dtype {
            DType::F16 => $plan.$run::<f16>($results),
            DType::BF16 => $plan.$run::<bf16>($results),
            DType::F32 => $plan.$run::<f32>($results),
            _ => $plan.$run::<f64>($results),
        }
    };
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
                frames as f64 * (STATE_NS * states + CLASS_NS * classes)
            })
            .sum()
    }

    fn run(&self, results: Results<'_>) -> Result<()> {
        run_in_element!(self, run_in, results)
    }

    fn lattice(&self) -> Option<&dyn Lattice> {
        Some(self)
    }
}

impl Lattice for CtcPlan<'_> {
    fn shapes(&self) -> [Shape; 2] {
        let [samples, frames] = [self.pred.shape()[0], self.pred.shape()[1]];
        let path: Shape = match self.loss.layout.0 {
            None => smallvec![frames],
            Some(0) => smallvec![samples, frames],
            Some(_) => smallvec![frames, samples],
        };
        let mut posteriors = path.clone();
        posteriors.push(self.labels.longest().unwrap_or(0));
        [posteriors, path]
    }

    fn run(&self, results: PathResults<'_>) -> Result<()> {
        run_in_element!(self, run_paths_in, results)
    }
}

impl CtcPlan<'_> {
    fn run_in<E: Element + Default>(&self, results: Results<'_>) -> Result<()> {
        let shape = self.axes.batch_first();
        let weighting = Weighting {
            sample_weight: self.weight.as_deref().map(|w| View::from_slice(w, &shape)),
            ..self.weighting.clone()
        };
        let reduced = Reduced { axes: &self.axes, weighting: &weighting, level: self.level };
        let [grad, ..] = results.grads;
        let scale: Vec<f64> = match (&grad, reduced.scale()?) {
            (None, _) => Vec::new(),
            (_, Scale::All(scale)) => vec![scale; self.lengths.len()],
            (_, Scale::Each(scales)) => scales,
        };
        let mut grad = grad.map(|view| Written::<E>::new(self.loss.samples_first(view)));
        let rows = grad.as_mut().map(Written::rows).transpose()?;
        let mut losses = self.compute(&Outputs {
            grad: rows.as_ref().map(|rows| Gradient { rows, scale: &scale }),
            ..Outputs::default()
        })?;
        grad.iter().for_each(Written::finish);
        if self.loss.infeasible == Infeasible::Zero {
            losses.iter_mut().filter(|loss| **loss == f64::INFINITY).for_each(|loss| *loss = 0.0);
        }
        if let Some(value) = results.value {
            reduced.value(&losses, value)?;
        }
        Ok(())
    }

    fn run_paths_in<E: Element + Default>(&self, results: PathResults<'_>) -> Result<()> {
        let counts = [self.pred.shape()[0], self.pred.shape()[1]];
        let written = |view| Written::<E>::new(self.loss.samples_first(view));
        let mut posteriors = results.posteriors.map(written);
        let mut path = results.alignment.as_ref().map(|_| Path::new(counts));
        let rows = posteriors.as_mut().map(Written::rows).transpose()?;
        let alignment = path.as_mut().map(|path| path.rows(counts)).transpose()?;
        self.compute(&Outputs {
            grad: None,
            posteriors: rows.as_ref().map(|rows| Posteriors { rows, blanks: false }),
            alignment: alignment.as_ref(),
        })?;
        posteriors.iter().for_each(Written::finish);
        if let (Some(out), Some(path)) = (results.alignment, &path) {
            let [index, log_prob, posterior] = out.map(|view| self.loss.samples_first(view));
            index.copy_from(&path.index());
            log_prob.copy_from(&path.log_probs);
            posterior.copy_from(&path.posteriors);
        }
        Ok(())
    }

    fn compute<E: Element + Default>(&self, outputs: &Outputs<'_, E>) -> Result<Vec<f64>> {
        let mut copy = Vec::new();
        let batch = Batch {
            frames: rows(&self.pred, &mut copy)?,
            input: self.loss.input,
            blank: self.blank,
            lengths: &self.lengths,
            labels: &self.labels,
        };
        let options =
            Options { level: self.level, parallel: true, memory_limit: self.loss.memory_limit };
        ctc(&batch, outputs, &options)
            .map_err(|error| Error::new(Kind::Memory, "memory_limit", error.to_string()))
    }
}

/// Rows of an array of samples, frames and classes; its elements are copied if classes do not lie side by side.
fn rows<'a, E: Element + Default>(view: &View<'a>, copy: &'a mut Vec<E>) -> Result<Rows<'a, E>> {
    let layout = |first, strides: &[isize]| layout_of::<E>(view.shape(), first, strides);
    let (data, layout) = match view.dense::<E>() {
        Some((data, first)) if side_by_side::<E>(view) => (data, layout(first, view.strides())),
        _ => {
            copy.extend(view.to_vec::<f64>()?.into_iter().map(E::of::<f64>));
            (&copy[..], Layout::contiguous(view.shape()[0], view.shape()[1], view.shape()[2]))
        }
    };
    Rows::new(data, layout).ok_or_else(|| Error::new(Kind::Shape, "pred", "unexpected layout"))
}

/// Rows of a result: its own, or a copy's if classes do not lie side by side in it.
struct Written<'a, E> {
    view: ViewMut<'a>,
    copy: Vec<E>,
}

impl<'a, E: Element + Default> Written<'a, E> {
    fn new(view: ViewMut<'a>) -> Self {
        Written { view, copy: Vec::new() }
    }

    fn rows(&mut self) -> Result<RowsMut<'_, E>> {
        let shape = self.view.shape();
        // SAFETY: the results of a call are its own, and these rows are the only way to them while they live.
        let (data, layout) = match unsafe { self.view.dense_mut::<E>() } {
            Some((data, first)) if side_by_side::<E>(&self.view.view) => {
                (data, layout_of::<E>(shape, first, self.view.strides()))
            }
            _ => {
                self.copy.resize(shape.iter().product(), E::default());
                (&mut self.copy[..], Layout::contiguous(shape[0], shape[1], shape[2]))
            }
        };
        RowsMut::new(data, layout)
            .ok_or_else(|| Error::new(Kind::Output, "grad_out", "unexpected layout"))
    }

    /// Brings what was computed elsewhere.
    fn finish(&self) {
        if !self.copy.is_empty() {
            let computed: Vec<f64> = self.copy.iter().map(|&x| E::to::<f64>(x)).collect();
            self.view.copy_from(&computed);
        }
    }
}

/// The most probable path as it is computed, samples first.
struct Path {
    states: Vec<u32>,
    log_probs: Vec<f64>,
    posteriors: Vec<f64>,
}

impl Path {
    fn new([samples, frames]: [usize; 2]) -> Self {
        let count = samples * frames;
        Path {
            states: vec![NO_STATE; count],
            log_probs: vec![0.0; count],
            posteriors: vec![0.0; count],
        }
    }

    fn rows(&mut self, [samples, frames]: [usize; 2]) -> Result<Alignment<'_>> {
        let layout = Layout::contiguous(samples, frames, 1);
        let wrong = || Error::new(Kind::Shape, "pred", "unexpected layout");
        Ok(Alignment {
            states: RowsMut::new(&mut self.states, layout).ok_or_else(wrong)?,
            log_probs: RowsMut::new(&mut self.log_probs, layout).ok_or_else(wrong)?,
            posteriors: RowsMut::new(&mut self.posteriors, layout).ok_or_else(wrong)?,
        })
    }

    /// Which label of its sequence each state is; -1 for blanks and where there is none.
    fn index(&self) -> Vec<f64> {
        let index = |&state: &u32| match state {
            NO_STATE => -1.0,
            state if state % 2 == 0 => -1.0,
            state => f64::from(state / 2),
        };
        self.states.iter().map(index).collect()
    }
}

fn side_by_side<E>(view: &View<'_>) -> bool {
    view.shape()[2] <= 1 || view.strides()[2] == size_of::<E>() as isize
}

fn layout_of<E>(shape: &[usize], origin: usize, strides: &[isize]) -> Layout {
    let unit = size_of::<E>() as isize;
    Layout {
        origin,
        strides: [strides[0] / unit, strides[1] / unit],
        counts: [shape[0], shape[1]],
        width: shape[2],
    }
}
