//! The loss of a batch: checks, schedule, and the steps of one sample.

use super::far_logits::{FarLogits, solve};
use super::frames::array::{FrameArrayMut, FrameRowMut};
use super::frames::emissions::{Frame, FrameEmissions};
use super::frames::occupancies::OccupancySink;
use super::frames::pass::{FramePass, FrameStatus, InputKind};
use super::frames::{GROUP, task_ns};
use super::gradient_sink::GradientSink;
use super::request::{CtcBatch, CtcOptions, CtcOutputs, GradientRows, NO_STATE, PathFrame};
use super::scratch::{CtcScratch, fixed_bytes, least_bytes};
use super::step_buffers::CtcLattice;
use super::target::CtcTarget;
use super::viterbi::{self, FloatScores, best_path};
use crate::error::{Error, Kind, Result};
use crate::math::Real;
use crate::simd::dispatch;
use crate::{memory, scratch, threads};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Elements of the frames in a task of the first pass, if one sample is shared out.
const TASK: usize = 1 << 14;

/// Elements of outputs that are set between two looks at whether the call is to stop.
const UNCHECKED: usize = 1 << 20;

/// Nanoseconds of the whole that sharing out a sample must save to be worth waking threads.
const WORTHWHILE: f64 = 20_000.0;

/// Emission rows of so many bytes are kept in any case.
const SMALL: usize = 1 << 20;

/// Rough times, in nanoseconds, for a state and for a class of a frame, by which samples are shared out. They are low,
/// so that threads are woken only where it pays; [`super::loss`] has the times of a call.
const SCHEDULED_STATE_NS: f64 = 1.0;
const SCHEDULED_CLASS_NS: f64 = 0.5;

/// The loss of every sample: infinite if its frames are too few for its labels or give them no probability, NaN if they
/// hold NaN or +inf.
///
/// # Errors
/// Wrong labels, lengths, blank or shapes, before anything is written; a sample that does not fit
/// into [`CtcOptions::memory_limit`], memory that the system refuses, or a caller that was told to stop.
pub fn ctc<R: Real>(
    batch: &CtcBatch<'_, R>,
    outputs: &CtcOutputs<'_, R>,
    options: &CtcOptions,
) -> Result<Vec<f64>> {
    let job = CtcJob { batch, outputs, options };
    job.check()?;
    let losses = memory::collect((0..batch.labels.samples()).map(|_| AtomicU64::new(0)))?;
    let run = |n: usize, shared: bool, scratch: &mut CtcScratch| -> Result<()> {
        losses[n].store(job.sample(n, shared, scratch)?.to_bits(), Ordering::Relaxed);
        Ok(())
    };
    let (order, shared) = job.schedule()?;
    let (shared, single) = order.split_at(shared);
    scratch::with(|scratch| shared.iter().try_for_each(|&(_, n)| run(n, true, scratch)))?;
    threads::run(single.len(), task_ns(options.parallel), &|tasks| {
        scratch::with(|scratch| tasks.try_for_each(|i| run(single[i].1, false, scratch)))
    })?;
    memory::collect(losses.into_iter().map(|loss| f64::from_bits(loss.into_inner())))
}

/// Why the outputs of some frames do not come from a lattice, which decides what they are set to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Filling {
    /// Behind the last frame.
    Padding,
    /// No path has any probability.
    Impossible,
    /// Some input was NaN or +inf.
    Nan,
    /// No gradient is wanted: it becomes 0, and the other outputs do come from the lattice.
    NoGradient,
}

struct CtcJob<'a, R> {
    batch: &'a CtcBatch<'a, R>,
    outputs: &'a CtcOutputs<'a, R>,
    options: &'a CtcOptions,
}

impl<R: Real> CtcJob<'_, R> {
    fn check(&self) -> Result<()> {
        let CtcBatch { frames, blank, lengths, labels, .. } = self.batch;
        let [samples, count] = frames.counts();
        let fits = |rows: &FrameArrayMut<'_, R>, width: usize| {
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
            && self.outputs.alignment.is_none_or(|path| path.len() == samples * count);
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

    /// Whether a sample fits into the memory limit, with so many `f64` for a number of the lattice and for a score.
    fn check_memory(&self, n: usize, [lattice, score]: [usize; 2]) -> Result<()> {
        let (labels, frames) = (self.batch.labels.sample(n).len(), self.batch.lengths[n]);
        let search =
            self.outputs.alignment.map_or(0, |_| viterbi::least_bytes(labels, frames, score));
        let bytes = least_bytes(labels, frames, lattice).saturating_add(search);
        if bytes <= self.options.memory_limit {
            return Ok(());
        }
        let detail = format!("sample {n} needs a memory limit of at least {bytes} bytes");
        let mut error = Error::new(Kind::Memory, "memory_limit", detail);
        error.value = Some(bytes.into());
        Err(error)
    }

    /// The samples and their times, the longest first, and how many of them, from the first on, are shared out: two
    /// threads take the two directions of such a sample, and one thread takes a whole other one. The results are the
    /// same in any case.
    fn schedule(&self) -> Result<(Vec<(f64, usize)>, usize)> {
        let CtcBatch { frames, lengths, labels, .. } = self.batch;
        let cost = |n: usize| {
            let states = 2 * labels.sample(n).len() + 2;
            lengths[n] as f64
                * (states as f64 * SCHEDULED_STATE_NS + frames.width() as f64 * SCHEDULED_CLASS_NS)
        };
        let mut order = memory::collect((0..lengths.len()).map(|n| (cost(n), n)))?;
        order.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let threads = if self.options.parallel { threads::num_threads() } else { 1 };
        // The time of the batch if the first `shared` samples are shared out by two threads each.
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
    fn sample(&self, n: usize, shared: bool, scratch: &mut CtcScratch) -> Result<f64> {
        let CtcBatch { lengths, labels, blank, input, frames: rows } = self.batch;
        let CtcOptions { level, memory_limit, .. } = *self.options;
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
        let CtcScratch { target, frames: frame_data, table, storage } = scratch;
        target.set(labels.sample(n), *blank, frames)?;
        let target = &*target;
        let budget = memory_limit.saturating_sub(fixed_bytes(target.label_count(), frames));
        let table_len = target.emissions.stride().saturating_mul(frames);
        let bytes = table_len.saturating_mul(size_of::<f64>());
        // Where few classes stand for many labels, computing emissions again takes little.
        let pays = bytes <= SMALL || target.width() < 2 * rows.width();
        let keeps = pays && bytes <= budget / 4;
        let table = table.sized(if keeps { table_len } else { 0 })?;
        memory::grow(frame_data, frames, Frame::default())?;
        let frame_data = &mut frame_data[..frames];
        let status =
            self.first_pass(n, shared, target, frame_data, keeps.then_some(&mut *table))?;
        if status.nan {
            self.fill(n, 0..frames, Filling::Nan)?;
            return Ok(f64::NAN);
        }
        if status.impossible {
            return impossible();
        }
        let layout = &target.emissions;
        let source = FrameEmissions { level, rows, n, layout, frames: frame_data };
        let table = keeps.then_some(&*table);
        let lattice = CtcLattice {
            level,
            target,
            frames: frame_data,
            source: &source,
            table,
            budget: budget - if keeps { bytes } else { 0 },
            parallel: shared,
        };
        let grad = self.outputs.grad.filter(|grad| grad.scale[n] != 0.0);
        if grad.is_none() {
            self.fill(n, 0..frames, Filling::NoGradient)?;
        }
        let far = FarLogits::new(&status, frames);
        if let Some(alignment) = self.outputs.alignment
            && !self.align(n, &lattice, &far, alignment)?
        {
            return impossible();
        }
        let gradient_sink =
            GradientSink { n, inputs: rows, grad, outputs: self.outputs, lattice: &lattice };
        let CtcOutputs { posteriors, alignment, .. } = self.outputs;
        let wanted = grad.is_some() || posteriors.is_some() || alignment.is_some();
        let sink = wanted.then_some(&gradient_sink as &dyn OccupancySink);
        let mut log_likelihood = solve(&lattice, storage, sink)?;
        if !far.are_outweighed_in_sum_by(log_likelihood) {
            self.check_memory(n, [far.words, 1])?;
            log_likelihood = far.solve(&lattice, storage, sink)?;
        }
        if log_likelihood == f64::NEG_INFINITY {
            return impossible();
        }
        let loss = sum(frame_data.iter().map(|frame| frame.base)) - log_likelihood;
        // Rounding may leave a sure model a hair above certainty.
        Ok(if *input == InputKind::Logits && loss <= 0.0 { 0.0 } else { loss })
    }

    /// Row t of sample n of an output, from the thread that works on the sample.
    fn row<'r>(rows: &'r FrameArrayMut<'_, R>, n: usize, t: usize) -> FrameRowMut<'r, R> {
        // SAFETY: one thread has the sample, except while the directions of its lattice or the tasks of its first pass
        // run, when that thread waits for them; and it writes through one row at a time.
        unsafe { rows.row(n, t) }
    }

    /// The frames of sample n.
    fn path<'p>(&self, path: &'p [PathFrame], n: usize) -> &'p [PathFrame] {
        let count = self.batch.frames.counts()[1];
        &path[n * count..][..count]
    }

    /// Sets the outputs of some frames.
    fn fill(&self, n: usize, frames: Range<usize>, filling: Filling) -> Result<()> {
        let value = if filling == Filling::Nan { R::NAN } else { R::ZERO };
        let unchecked = (UNCHECKED / self.batch.frames.width().max(1)).max(1);
        for t in frames {
            if t % unchecked == 0 {
                threads::check()?;
            }
            if let Some(GradientRows { rows, scale }) = self.outputs.grad {
                let value = if scale[n] == 0.0 { R::ZERO } else { value };
                Self::row(rows, n, t).fill(0..rows.width(), value);
            }
            if filling == Filling::NoGradient {
                continue;
            }
            if let Some(posteriors) = self.outputs.posteriors {
                let row = || Self::row(posteriors.rows, n, t);
                let own = posteriors.width(self.batch.labels.sample(n).len());
                row().fill(0..own, value);
                row().fill(own..posteriors.rows.width(), R::ZERO);
            }
            if let Some(path) = self.outputs.alignment {
                let (frame, value) = (&self.path(path, n)[t], value.to_f64());
                let impossible = filling == Filling::Impossible;
                frame.set_state(NO_STATE, if impossible { f64::NEG_INFINITY } else { value });
                frame.set_posterior(value);
            }
        }
        Ok(())
    }

    /// Writes the most probable path and the probabilities of its classes. False if there is no path.
    fn align(
        &self,
        n: usize,
        lattice: &CtcLattice<'_>,
        far: &FarLogits,
        path: &[PathFrame],
    ) -> Result<bool> {
        let CtcBatch { frames: rows, labels, blank, input, .. } = self.batch;
        let frames = lattice.frames;
        let mut states = memory::filled(0, frames.len())?;
        let mut score = best_path::<FloatScores>(lattice, &mut states)?;
        if !far.are_outweighed_by(score) {
            self.check_memory(n, [2, far.words])?;
            score = far.best_path(lattice, &mut states)?;
        }
        if score == f64::NEG_INFINITY {
            return Ok(false);
        }
        let labels = labels.sample(n);
        let path = self.path(path, n);
        for (t, (&state, frame)) in states.iter().zip(frames).enumerate() {
            let class = if state % 2 == 1 { labels[state as usize / 2] } else { *blank };
            let x = rows.row(n, t).at(class as usize).to_f64();
            let log_prob =
                if *input == InputKind::Logits { (x - frame.shift) - frame.base } else { x };
            path[t].set_state(state, log_prob);
        }
        Ok(true)
    }

    /// The first pass over the frames, in chunks if the sample is shared out; they change no bit of the result.
    fn first_pass(
        &self,
        n: usize,
        shared: bool,
        target: &CtcTarget,
        frames: &mut [Frame],
        mut table: Option<&mut [f64]>,
    ) -> Result<FrameStatus> {
        let CtcBatch { frames: rows, input, .. } = self.batch;
        let grad = self.outputs.grad.map(|grad| (grad.rows, grad.scale[n]));
        let grad = grad.filter(|&(_, scale)| scale != 0.0);
        let layout = &target.emissions;
        let pass = |first: usize, frames: &mut [Frame], table: Option<&mut [f64]>| {
            let pass = FramePass { rows, n, input: *input, layout, first, frames, table, grad };
            dispatch(self.options.level, pass)
        };
        if !shared {
            return pass(0, frames, table);
        }
        let chunk = (TASK / rows.width()).max(GROUP);
        let chunks = frames.chunks_mut(chunk).enumerate().map(|(i, frames)| {
            let len = frames.len() * target.emissions.stride();
            let table = table.take().map(|rest| {
                let (part, rest) = rest.split_at_mut(len);
                table = Some(rest);
                part
            });
            Mutex::new((i * chunk, frames, table, FrameStatus::ORDINARY))
        });
        let chunks = memory::collect(chunks)?;
        threads::run(chunks.len(), task_ns(true), &|tasks| {
            for i in tasks {
                let mut chunk = chunks[i].lock().unwrap_or_else(PoisonError::into_inner);
                let (first, frames, table, status) = &mut *chunk;
                *status = pass(*first, frames, table.as_deref_mut())?;
            }
            Ok(())
        })?;
        Ok(chunks.into_iter().fold(FrameStatus::ORDINARY, |all, chunk| {
            let (.., status) = chunk.into_inner().unwrap_or_else(PoisonError::into_inner);
            all.and(status)
        }))
    }
}

/// The sum of numbers of any sizes, to which the rounding errors of the additions are added at the end.
fn sum(numbers: impl Iterator<Item = f64>) -> f64 {
    let (mut sum, mut lost) = (0.0, 0.0);
    for x in numbers {
        let new: f64 = sum + x;
        let added = new - sum;
        lost += (sum - (new - added)) + (x - added);
        sum = new;
    }
    // The rounding error of an infinite sum is NaN.
    if lost.is_finite() { sum + lost } else { sum }
}
