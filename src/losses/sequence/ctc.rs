//! Connectionist temporal classification of a batch: minus the logarithm of the probability of a label sequence.
//!
//! ```text
//! loss = -log sum over paths pi of prod over t of p(t, pi(t))
//! d loss / d logit(t, k) = p(t, k) - occupancy(t, k)
//! ```
//!
//! where a path gives each frame a label or the blank, and becomes the label sequence when repetitions are merged and
//! blanks removed; the occupancy is the probability, given the label sequence, that the path is at class k at frame t.
//! A. Graves et al., "Connectionist temporal classification", ICML 2006.

use super::far::Far;
use super::frames::{Frame, Inputs, Status, Survey};
use super::planes::sized;
use super::results::Taker;
use super::rows::{Element, Rows, RowsMut};
use super::scratch::Scratch;
use super::sweep::{Lattice, Sink};
use super::target::{Labels, Target};
use super::viterbi::{self, Floats, best_path};
use super::{Input, LANES, checkpoints, task_ns};
use crate::error::{Error, Kind, Result};
use crate::simd::{Level, dispatch};
use crate::{memory, threads};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Elements of the frames that a task of the first pass takes, if one sample is shared out.
const TASK: usize = 1 << 14;

/// Elements of outputs that are set before asking whether to go on.
const UNCHECKED: usize = 1 << 20;

/// What a shared-out sample must save, in nanoseconds of the whole, to be worth waking threads for.
const WORTHWHILE: f64 = 20_000.0;

/// Emission rows of so many bytes are kept in any case.
const SMALL: usize = 1 << 20;

/// Rough times, in nanoseconds, for a state and for a class of a frame.
const STATE_NS: f64 = 1.0;
const CLASS_NS: f64 = 0.5;

/// A batch of utterances.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a, E> {
    /// A row of classes for each sample and frame.
    pub frames: Rows<'a, E>,
    /// What they hold.
    pub input: Input,
    /// The class that stands for no label.
    pub blank: u32,
    /// How many frames each sample has; those behind are never read.
    pub lengths: &'a [usize],
    /// The label sequences.
    pub labels: &'a Labels,
}

/// Where the gradient goes.
#[derive(Clone, Copy, Debug)]
pub struct Gradient<'a, E> {
    /// Rows like those of the frames. Behind a sample's last frame, and where its loss is infinite, they become 0; where
    /// it is NaN, NaN.
    pub rows: &'a RowsMut<'a, E>,
    /// What each sample's gradient is multiplied by; at 0 it is 0 in any case.
    pub scale: &'a [f64],
}

/// Where the probabilities of states go, given the label sequence.
#[derive(Clone, Copy, Debug)]
pub struct Posteriors<'a, E> {
    /// A row of states for each sample and frame: 0 behind the last frame, behind the last state of the sample and where
    /// there is no path; NaN where the loss is.
    pub rows: &'a RowsMut<'a, E>,
    /// Whether rows are blank 0, label 0, blank 1, … with a last blank, or labels alone.
    pub blanks: bool,
}

impl<E> Posteriors<'_, E> {
    /// Elements of a row that a label sequence takes.
    pub(super) fn width(&self, labels: usize) -> usize {
        if self.blanks { 2 * labels + 1 } else { labels }
    }
}

/// What is wanted beside the loss.
#[derive(Clone, Copy, Debug)]
pub struct Outputs<'a, E> {
    /// The gradient.
    pub grad: Option<Gradient<'a, E>>,
    /// The probability of each state at each frame.
    pub posteriors: Option<Posteriors<'a, E>>,
    /// The most probable path.
    pub alignment: Option<&'a Alignment<'a>>,
}

/// The most probable path: rows of one element for each sample and frame.
#[derive(Debug)]
pub struct Alignment<'a> {
    /// The state: twice the number of labels before it, and one more if it is a label. [`NO_STATE`] behind a sample's last
    /// frame and where there is no path.
    pub states: RowsMut<'a, u32>,
    /// The logarithm of the probability of its class at that frame: 0 behind the last frame, -inf where there is no path.
    pub log_probs: RowsMut<'a, f64>,
    /// The probability of the state, given the label sequence: 0 where there is none.
    pub posteriors: RowsMut<'a, f64>,
}

/// The state of frames that have none.
pub const NO_STATE: u32 = u32::MAX;

impl<E> Default for Outputs<'_, E> {
    fn default() -> Self {
        Outputs { grad: None, posteriors: None, alignment: None }
    }
}

/// How to compute.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The instruction set.
    pub level: Level,
    /// Whether several threads may take part.
    pub parallel: bool,
    /// Bytes of scratch that a thread may use.
    pub memory_limit: usize,
}

/// The loss of every sample: infinite if its frames are too few for its labels or give them no probability, NaN if they
/// hold NaN or +inf.
///
/// # Errors
/// What is wrong with labels, lengths, the blank or the layouts, before anything is written; a sample that does not fit
/// into [`Options::memory_limit`], memory that the system refuses, or a caller that was told to stop.
pub fn ctc<E: Element>(
    batch: &Batch<'_, E>,
    outputs: &Outputs<'_, E>,
    options: &Options,
) -> Result<Vec<f64>> {
    let job = Job { batch, outputs, options };
    job.check()?;
    let losses = memory::collect((0..batch.labels.samples()).map(|_| AtomicU64::new(0)))?;
    let run = |n: usize, shared: bool, scratch: &mut Scratch| -> Result<()> {
        losses[n].store(job.sample(n, shared, scratch)?.to_bits(), Ordering::Relaxed);
        Ok(())
    };
    let (order, shared) = job.schedule()?;
    let (shared, single) = order.split_at(shared);
    Scratch::with(|scratch| shared.iter().try_for_each(|&(_, n)| run(n, true, scratch)))?;
    threads::run(single.len(), task_ns(options.parallel), &|tasks| {
        Scratch::with(|scratch| tasks.try_for_each(|i| run(single[i].1, false, scratch)))
    })?;
    memory::collect(losses.into_iter().map(|loss| f64::from_bits(loss.into_inner())))
}

/// What the outputs of frames are set to when no lattice decides.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Filling {
    /// Behind the last frame.
    Padding,
    /// No path has any probability.
    Impossible,
    /// Some input was NaN or +inf.
    Nan,
    /// The gradient, and nothing else, is 0.
    NoGradient,
}

struct Job<'a, E> {
    batch: &'a Batch<'a, E>,
    outputs: &'a Outputs<'a, E>,
    options: &'a Options,
}

impl<E: Element> Job<'_, E> {
    fn check(&self) -> Result<()> {
        let Batch { frames, blank, lengths, labels, .. } = self.batch;
        let [samples, count] = frames.counts();
        let fits = |rows: &RowsMut<'_, E>, width: usize| {
            rows.counts() == frames.counts() && rows.width() >= width
        };
        let valid = labels.samples() == samples
            && lengths.len() == samples
            && self.outputs.grad.is_none_or(|grad| {
                fits(grad.rows, frames.width())
                    && grad.rows.width() == frames.width()
                    && grad.scale.len() == samples
            })
            && self
                .outputs
                .posteriors
                .is_none_or(|all| fits(all.rows, labels.longest().map_or(0, |len| all.width(len))))
            && self.outputs.alignment.is_none_or(|path| {
                let counts =
                    [path.states.counts(), path.log_probs.counts(), path.posteriors.counts()];
                let widths = [path.states.width(), path.log_probs.width(), path.posteriors.width()];
                counts == [frames.counts(); 3] && widths == [1; 3]
            });
        if !valid {
            let detail = "lengths, labels or outputs do not fit the frames";
            return Err(Error::new(Kind::Shape, "frames", detail));
        }
        if samples > 0 && *blank as usize >= frames.width() {
            let detail = format!("expected a class below {}, got {blank}", frames.width());
            return Err(Error::new(Kind::Parameter, "blank", detail));
        }
        for (n, &length) in lengths.iter().enumerate() {
            if length > count {
                let allowed = format!("an integer from 0 to {count}");
                return Err(Error::element(Kind::Length, "pred_lengths", &[n], length, allowed));
            }
            labels.check(n, frames.width(), *blank)?;
            self.check_memory(n, [2, 1])?;
        }
        Ok(())
    }

    /// Whether a sample fits into the memory limit, with so many elements for a number of the lattice and for a score.
    fn check_memory(&self, n: usize, [lattice, score]: [usize; 2]) -> Result<()> {
        let (labels, frames) = (self.batch.labels.sample(n).len(), self.batch.lengths[n]);
        let search =
            self.outputs.alignment.map_or(0, |_| viterbi::least_bytes(labels, frames, score));
        let bytes = checkpoints::least_bytes(labels, frames, lattice).saturating_add(search);
        if bytes <= self.options.memory_limit {
            return Ok(());
        }
        let detail = format!("sample {n} needs a memory limit of at least {bytes} bytes");
        let error = Error::new(Kind::Memory, "memory_limit", detail);
        Err(Error { value: Some(bytes.into()), ..error })
    }

    /// The samples with what they cost, the longest first, and how many of them, from the first on, are shared out by the
    /// two directions of each; threads take the others whole. The results are the same in any case.
    fn schedule(&self) -> Result<(Vec<(f64, usize)>, usize)> {
        let Batch { frames, lengths, labels, .. } = self.batch;
        let cost = |n: usize| {
            let states = 2 * labels.sample(n).len() + 2;
            lengths[n] as f64 * (states as f64 * STATE_NS + frames.width() as f64 * CLASS_NS)
        };
        let mut order = memory::collect((0..lengths.len()).map(|n| (cost(n), n)))?;
        order.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let threads = if self.options.parallel { threads::num_threads() } else { 1 };
        // How long it takes if the first `shared` samples are shared out by two threads each.
        let mut loads = memory::filled(0.0, threads)?;
        let mut time = |shared: usize| {
            let (first, rest) = order.split_at(shared);
            loads.fill(0.0);
            for (cost, _) in rest {
                if let Some(load) = loads.iter_mut().min_by(|a: &&mut f64, b| a.total_cmp(b)) {
                    *load += cost;
                }
            }
            let halves: f64 = first.iter().map(|(cost, _)| cost / 2.0 + WORTHWHILE).sum();
            halves + loads.iter().copied().fold(0.0, f64::max)
        };
        let most = if threads > 1 { order.len().min(threads) } else { 0 };
        let shared = (0..=most).min_by(|&a, &b| time(a).total_cmp(&time(b))).unwrap_or(0);
        Ok((order, shared))
    }

    /// The loss of a sample.
    fn sample(&self, n: usize, shared: bool, scratch: &mut Scratch) -> Result<f64> {
        let Batch { lengths, labels, blank, input, frames: rows } = self.batch;
        let Options { level, memory_limit, .. } = *self.options;
        let (labels, frames) = (labels, lengths[n]);
        threads::check()?;
        self.fill(n, frames..rows.counts()[1], Filling::Padding)?;
        let impossible = || {
            self.fill(n, 0..frames, Filling::Impossible)?;
            Ok(f64::INFINITY)
        };
        if labels.frames_needed(n) > frames {
            return impossible();
        }
        if frames == 0 {
            return Ok(0.0);
        }
        let Scratch { target, frames: frame_data, table, storage } = scratch;
        target.set(labels.sample(n), *blank, frames)?;
        let target = &*target;
        let budget = memory_limit.saturating_sub(checkpoints::fixed_bytes(target.len, frames));
        let table_len = target.stride().saturating_mul(frames);
        let bytes = table_len.saturating_mul(size_of::<f64>());
        // Where few classes stand for many labels it takes little to compute emissions anew.
        let pays = bytes <= SMALL || target.width < 2 * rows.width();
        let keeps = pays && bytes <= budget / 4;
        let table = table.sized(if keeps { table_len } else { 0 })?;
        let frame_data = sized(frame_data, frames)?;
        let status = self.survey(n, shared, target, frame_data, keeps.then_some(&mut *table))?;
        if status.nan {
            self.fill(n, 0..frames, Filling::Nan)?;
            return Ok(f64::NAN);
        }
        if status.impossible {
            return impossible();
        }
        let inputs = Inputs { level, rows, n, target, frames: frame_data };
        let table = keeps.then_some(&*table);
        let lattice = Lattice {
            level,
            target,
            frames: frame_data,
            source: &inputs,
            table,
            budget: budget - if keeps { bytes } else { 0 },
            parallel: shared,
        };
        let grad = self.outputs.grad.filter(|grad| grad.scale[n] != 0.0);
        if grad.is_none() {
            self.fill(n, 0..frames, Filling::NoGradient)?;
        }
        let far = Far::new(&status, frames);
        if let Some(alignment) = self.outputs.alignment
            && !self.align(n, &lattice, &far, alignment)?
        {
            return impossible();
        }
        let taker = Taker { n, inputs: *rows, grad, outputs: self.outputs, lattice: &lattice };
        let Outputs { posteriors, alignment, .. } = self.outputs;
        let wanted = grad.is_some() || posteriors.is_some() || alignment.is_some();
        let sink = wanted.then_some(&taker as &dyn Sink);
        let mut log_likelihood = lattice.solve(storage, sink)?;
        if !far.is_outweighed_in_sum_by(log_likelihood) {
            self.check_memory(n, [far.words, 1])?;
            log_likelihood = far.solve(&lattice, storage, sink)?;
        }
        if log_likelihood == f64::NEG_INFINITY {
            return impossible();
        }
        let loss = sum(frame_data.iter().map(|frame| frame.base)) - log_likelihood;
        // Rounding may leave a sure model a hair above certainty.
        Ok(if *input == Input::Logits && loss <= 0.0 { 0.0 } else { loss })
    }

    /// Sets the outputs of some frames.
    fn fill(&self, n: usize, frames: Range<usize>, filling: Filling) -> Result<()> {
        let value = if filling == Filling::Nan { f64::NAN } else { 0.0 };
        let unchecked = (UNCHECKED / self.batch.frames.width().max(1)).max(1);
        for t in frames {
            if t % unchecked == 0 {
                threads::check()?;
            }
            if let Some(Gradient { rows, scale }) = self.outputs.grad {
                let value = if scale[n] == 0.0 { 0.0 } else { value };
                // SAFETY: this thread alone works on the sample.
                unsafe { rows.row(n, t) }.fill(0..rows.width(), E::of(value));
            }
            if filling == Filling::NoGradient {
                continue;
            }
            if let Some(posteriors) = self.outputs.posteriors {
                // SAFETY: as above.
                let mut row = unsafe { posteriors.rows.row(n, t) };
                let own = posteriors.width(self.batch.labels.sample(n).len());
                row.fill(0..own, E::of(value));
                row.fill(own..posteriors.rows.width(), E::of(0.0));
            }
            if let Some(path) = self.outputs.alignment {
                let impossible = filling == Filling::Impossible;
                // SAFETY: as above.
                let mut rows = unsafe {
                    (path.states.row(n, t), path.log_probs.row(n, t), path.posteriors.row(n, t))
                };
                rows.0.set(0, NO_STATE);
                rows.1.set(0, if impossible { f64::NEG_INFINITY } else { value });
                rows.2.set(0, value);
            }
        }
        Ok(())
    }

    /// The most probable path and its probabilities. False if there is none.
    fn align(
        &self,
        n: usize,
        lattice: &Lattice<'_>,
        far: &Far,
        alignment: &Alignment<'_>,
    ) -> Result<bool> {
        let Batch { frames: rows, labels, blank, input, .. } = self.batch;
        let Lattice { level, target, frames, source, budget, .. } = *lattice;
        let mut states = memory::filled(0, frames.len())?;
        let mut score = best_path::<Floats>(level, target, source, budget, &mut states)?;
        if !far.is_outweighed_by(score) {
            self.check_memory(n, [2, far.words])?;
            score = far.best_path(lattice, &mut states)?;
        }
        if score == f64::NEG_INFINITY {
            return Ok(false);
        }
        let labels = labels.sample(n);
        for (t, (&state, frame)) in states.iter().zip(frames).enumerate() {
            let class = if state % 2 == 1 { labels[state as usize / 2] } else { *blank };
            let x: f64 = rows.row(n, t).at(class as usize).to();
            let log_prob = if *input == Input::Logits { (x - frame.shift) - frame.base } else { x };
            // SAFETY: this thread alone works on the sample.
            unsafe {
                alignment.states.row(n, t).set(0, state);
                alignment.log_probs.row(n, t).set(0, log_prob);
            }
        }
        Ok(true)
    }

    /// The first pass over the frames, by chunks that do not matter to the result.
    fn survey(
        &self,
        n: usize,
        shared: bool,
        target: &Target,
        frames: &mut [Frame],
        mut table: Option<&mut [f64]>,
    ) -> Result<Status> {
        let Batch { frames: rows, input, .. } = self.batch;
        let grad = self.outputs.grad.map(|grad| (grad.rows, grad.scale[n]));
        let grad = grad.filter(|&(_, scale)| scale != 0.0);
        let survey = |first: usize, frames: &mut [Frame], table: Option<&mut [f64]>| {
            let survey = Survey { rows, n, input: *input, target, first, frames, table, grad };
            dispatch(self.options.level, survey)
        };
        if !shared {
            return survey(0, frames, table);
        }
        let chunk = (TASK / rows.width()).max(LANES);
        let chunks = frames.chunks_mut(chunk).enumerate().map(|(i, frames)| {
            let len = frames.len() * target.stride();
            let table = table.take().map(|rest| {
                let (part, rest) = rest.split_at_mut(len);
                table = Some(rest);
                part
            });
            Mutex::new((i * chunk, frames, table, Status::ORDINARY))
        });
        let chunks = memory::collect(chunks)?;
        threads::run(chunks.len(), task_ns(true), &|tasks| {
            for i in tasks {
                let mut chunk = chunks[i].lock().unwrap_or_else(PoisonError::into_inner);
                let (first, frames, table, status) = &mut *chunk;
                *status = survey(*first, frames, table.as_deref_mut())?;
            }
            Ok(())
        })?;
        Ok(chunks.into_iter().fold(Status::ORDINARY, |all, chunk| {
            let (.., status) = chunk.into_inner().unwrap_or_else(PoisonError::into_inner);
            all.and(status)
        }))
    }
}

/// The sum of numbers of any sizes, with what additions round off put back.
fn sum(numbers: impl Iterator<Item = f64>) -> f64 {
    let (mut sum, mut lost) = (0.0, 0.0);
    for x in numbers {
        let new: f64 = sum + x;
        let added = new - sum;
        lost += (sum - (new - added)) + (x - added);
        sum = new;
    }
    // Infinities leave a NaN there.
    if lost.is_finite() { sum + lost } else { sum }
}
