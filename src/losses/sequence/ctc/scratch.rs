//! Memory that goes from sample to sample and from call to call, and how much of it a sample takes.

use super::frames::GROUP;
use super::frames::blocks::BLOCK_FRAMES;
use super::frames::emissions::Frame;
use super::step_buffers::CtcStorage;
use super::target::CtcTarget;
use crate::buffer::Buffer;
use crate::scratch::Reusable;

/// Memory in which one thread computes its samples.
#[derive(Default)]
pub struct CtcScratch {
    pub target: CtcTarget,
    pub frames: Vec<Frame>,
    /// The emission rows of all frames, if they are kept.
    pub table: Buffer<f64>,
    pub storage: CtcStorage,
}

impl Reusable for CtcScratch {
    fn bytes(&self) -> usize {
        self.target.bytes() + self.frames.bytes() + self.table.bytes() + self.storage.bytes()
    }
}

/// Bytes that a sample takes, roughly, beside its stored rows, checkpoints and table of emissions.
pub fn fixed_bytes(labels: usize, frames: usize) -> usize {
    let width = labels + 2 * GROUP;
    // Rows of four cursors, their state, their buffers and the rows they step through; then emission rows of a block:
    // two windows of two rows each in the cursors, and two windows for the sinks.
    let rows = 4 * 17 + 2 * 2 * BLOCK_FRAMES + 2 * (BLOCK_FRAMES + 1);
    let storage = rows * width * size_of::<f64>();
    frames * size_of::<Frame>() + CtcTarget::bytes_for(labels, frames) + storage
}

/// The lowest memory limit, in bytes, for a sample, if a number of a state row takes so many `f64`.
pub fn least_bytes(labels: usize, frames: usize, number_len: usize) -> usize {
    let state = number_len * (2 * labels + 40) * size_of::<f64>();
    let levels = frames.max(2).ilog2() as usize + 1;
    // Each of the four cursors has a state and two rows to step through; of numbers of two `f64` they are counted
    // already.
    let more = 4 * 3 * (state - state / number_len * 2);
    fixed_bytes(labels, frames) + 2 * (BLOCK_FRAMES + 2 * levels) * state + more
}
