//! The arithmetics give the same, wherever the fast one says that it can be trusted.

use super::block_float::BlockFloat;
use super::extended_float::ExtendedFloat;
use super::fixed_number::SHORT_NUMBER;
use super::fixed_point::FixedPoint;
use super::frames::GROUP;
use super::frames::arithmetic::Arithmetic;
use super::frames::blocks::DEEPEST;
use super::frames::emissions::{EmissionForm, EmissionSource, Frame};
use super::frames::midpoint::PathSum;
use super::frames::occupancies::{Occupancies, OccupancySink};
use super::step_buffers::{CtcLattice, CtcStorage};
use super::target::CtcTarget;
use crate::buffer::Buffer;
use crate::error::Result;
use crate::simd;
use std::f64::consts::{LN_2, LOG2_E};
use std::ops::Range;
use std::sync::Mutex;

/// Of the logarithm, relative, and of the occupancies, absolute.
const LOSS: f64 = 1e-12;
const OCCUPANCY: f64 = 1e-11;

/// Logarithms of emissions, none above 0.
struct Logs(Vec<f64>, usize);

impl EmissionSource for Logs {
    fn fill(&self, form: EmissionForm, frames: Range<usize>, out: &mut [f64]) -> Result<()> {
        let stride = self.1;
        for (i, t) in frames.enumerate() {
            for (k, &x) in self.0[t * stride..(t + 1) * stride].iter().enumerate() {
                match form {
                    EmissionForm::Linear => out[i * stride + k] = x.exp(),
                    EmissionForm::Extended => {
                        let bits = (x * LOG2_E).round().max(-1e9);
                        let m = if x == f64::NEG_INFINITY { 0.0 } else { (x - bits * LN_2).exp() };
                        (out[2 * i * stride + k], out[(2 * i + 1) * stride + k]) = (m, bits);
                    }
                    EmissionForm::Log => out[i * stride + k] = x,
                    EmissionForm::Exact => {
                        let x = 0.5 * x;
                        (out[2 * i * stride + k], out[(2 * i + 1) * stride + k]) = (x, 0.0);
                    }
                }
            }
        }
        Ok(())
    }
}

/// Keeps the occupancies of all frames.
struct Keep<'a>(&'a CtcTarget, Mutex<Vec<f64>>);

impl OccupancySink for Keep<'_> {
    fn take(
        &self,
        frames: Range<usize>,
        rows: &Occupancies<'_>,
        totals: &[[f64; 2]],
        _: Option<&[f64]>,
        _: &mut Buffer<f64>,
    ) -> Result<()> {
        let Keep(target, kept) = self;
        for (i, t) in frames.enumerate() {
            let reach = target.groups(t);
            let (start, end) = (reach.start * GROUP, reach.end * GROUP);
            let total: f64 = totals[i].iter().sum();
            for first in [0, target.width()] {
                let from = &rows.row(i)[first + start..first + end];
                let to = 2 * t * target.width() + first;
                let to = &mut kept.lock().unwrap()[to + start..to + end];
                to.iter_mut().zip(from).for_each(|(to, from)| *to = from / total);
            }
        }
        Ok(())
    }
}

fn run<A: Arithmetic<Target = CtcTarget>>(
    target: &CtcTarget,
    logs: &Logs,
    bits: &[f64],
    budget: usize,
) -> (PathSum, Vec<f64>) {
    let level = simd::level().unwrap();
    let frames: Vec<_> = bits.iter().map(|&bits| Frame { bits, ..Frame::default() }).collect();
    let (frames, source) = (&frames, logs);
    let lattice = CtcLattice { level, target, frames, source, table: None, budget, parallel: true };
    let keep = Keep(target, Mutex::new(vec![0.0; 2 * target.width() * target.frames]));
    let mut storage = CtcStorage::default();
    let outcome = lattice.run::<A>(&mut storage, Some(&keep)).unwrap();
    let alone = lattice.run::<A>(&mut storage, None).unwrap();
    assert_eq!(alone.log_likelihood.to_bits(), outcome.log_likelihood.to_bits());
    assert!(!alone.trusted || outcome.trusted);
    (outcome, keep.1.into_inner().unwrap())
}

/// How many of the tries at some spread of the logits were trusted; all those agree.
fn tries(count: u64, spread: f64, peak: f64) -> u64 {
    let mut seed = 7;
    let mut uniform = || {
        seed = u64::wrapping_add(
            u64::wrapping_mul(seed, 6_364_136_223_846_793_005),
            1_442_695_040_888_963_407,
        );
        (seed >> 11) as f64 / (1_u64 << 53) as f64
    };
    let mut trusted = 0;
    for _ in 0..count {
        let frames = 1 + (uniform() * 300.0) as usize;
        let len = (uniform() * (frames as f64 / 2.0)) as usize;
        let labels: Vec<u32> = (0..len).map(|_| 1 + (uniform() * 20.0) as u32).collect();
        let mut target = CtcTarget::default();
        target.set(&labels, 0, frames).unwrap();
        let stride = target.emissions.stride();
        let mut logs = vec![f64::NEG_INFINITY; frames * stride];
        let mut bits = vec![0.0; frames];
        for (t, row) in logs.chunks_exact_mut(stride).enumerate() {
            let mut x = [0.0; 21].map(|_| spread * (uniform() + uniform() + uniform() - 1.5));
            if len > 0 {
                x[labels[t * len / frames] as usize] += peak;
            }
            let max = x.into_iter().fold(f64::NEG_INFINITY, f64::max);
            let min = x.into_iter().fold(f64::INFINITY, f64::min);
            bits[t] = ((max - min) * LOG2_E).ceil();
            row[..len].iter_mut().zip(&labels).for_each(|(y, &k)| *y = x[k as usize] - max);
            row[target.width()..].fill(x[0] - max);
        }
        let logs = Logs(logs, stride);
        let (exact, occupancies) = run::<ExtendedFloat>(&target, &logs, &bits, 1 << 28);
        assert!(exact.trusted);
        let (fixed, own) = run::<FixedPoint<SHORT_NUMBER>>(&target, &logs, &bits, 1 << 28);
        let (a, b) = (fixed.log_likelihood, exact.log_likelihood);
        assert!(fixed.trusted && (a == b || (a - b).abs() <= LOSS * b.abs().max(1.0)), "{a} {b}");
        for (a, b) in own.iter().zip(&occupancies) {
            assert!((a - b).abs() <= OCCUPANCY, "{a} against {b}");
        }
        if bits.iter().any(|&bits| bits > DEEPEST) {
            continue;
        }
        for budget in [1 << 28, 0] {
            let (fast, own) = run::<BlockFloat>(&target, &logs, &bits, budget);
            if !fast.trusted {
                continue;
            }
            trusted += u64::from(budget > 0);
            let (a, b) = (fast.log_likelihood, exact.log_likelihood);
            assert!((a - b).abs() <= LOSS * b.abs().max(1.0), "{a} against {b}");
            for (a, b) in own.iter().zip(&occupancies) {
                assert!((a - b).abs() <= OCCUPANCY, "{a} against {b}");
            }
        }
    }
    trusted
}

#[test]
fn ordinary_inputs_are_trusted() {
    for (spread, peak) in [(0.0, 0.0), (4.0, 0.0), (20.0, 0.0), (4.0, 30.0), (100.0, 0.0)] {
        assert_eq!(tries(20, spread, peak), 20, "spread {spread}, peak {peak}");
    }
}

#[test]
fn extreme_inputs_agree_where_they_are_trusted() {
    let trusted: u64 = [200.0, 280.0].into_iter().map(|spread| tries(20, spread, 0.0)).sum();
    assert!(trusted > 0, "none of 40 was trusted");
    assert_eq!(tries(10, 2000.0, 0.0), 0, "emissions further apart than the fast arithmetic takes");
}
