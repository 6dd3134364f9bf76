//! Batches to try, and the textbook to hold them against.

use rustloss::array::{View, ViewMut};
use rustloss::error::{Error, Kind, Number};
use rustloss::losses::sequence::{
    CtcBatch, CtcOptions, CtcOutputs, FrameArray, FrameArrayMut, GradientRows, InputKind,
    LabelSequences, PosteriorRows, ctc,
};
use rustloss::math::Real;
use rustloss::num::{DType, Element};
use rustloss::simd;

/// The documented bounds, for `f64`.
pub const LOSS: f64 = 1e-12;
pub const GRADIENT: f64 = 1e-11;
/// The same for `f32`.
pub const LOSS_F32: f64 = 2e-7;
pub const GRADIENT_F32: f64 = 2e-6;

/// Splitmix64: numbers that every platform agrees on.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.uniform() * n as f64) as usize
    }

    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }
}

/// A batch with everything it owns.
#[derive(Clone)]
pub struct Case {
    pub frames: Vec<f64>,
    pub counts: [usize; 3],
    pub input: InputKind,
    pub blank: u32,
    pub lengths: Vec<usize>,
    pub labels: Vec<Vec<u32>>,
}

/// What came out of a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    pub loss: Vec<f64>,
    pub grad: Vec<f64>,
    pub posteriors: Vec<f64>,
}

pub const LIMIT: usize = 256 << 20;

pub fn options(memory_limit: usize) -> CtcOptions {
    CtcOptions { level: simd::level().unwrap(), parallel: true, memory_limit }
}

impl Case {
    pub fn random(random: &mut Random, counts: [usize; 3], len: usize, scale: f64) -> Self {
        let [samples, frames, classes] = counts;
        let blank = random.below(classes) as u32;
        let labels = (0..samples)
            .map(|_| {
                let mut label = || {
                    let label = random.below(classes - 1) as u32;
                    label + u32::from(label >= blank)
                };
                (0..len).map(|_| label()).collect()
            })
            .collect();
        Case {
            frames: (0..samples * frames * classes).map(|_| random.normal() * scale).collect(),
            counts,
            input: InputKind::Logits,
            blank,
            lengths: vec![frames; samples],
            labels,
        }
    }

    pub fn states(&self) -> usize {
        self.labels.iter().map(|labels| 2 * labels.len() + 1).max().unwrap_or(0)
    }

    pub fn labels(&self) -> LabelSequences {
        let mut offsets = vec![0];
        for labels in &self.labels {
            offsets.push(offsets.last().unwrap() + labels.len());
        }
        LabelSequences::new(self.labels.concat(), offsets).unwrap()
    }

    /// The answer for frames of type `E`.
    pub fn run_as<E: Element>(&self, scale: &[f64], memory_limit: usize) -> Result<Answer, Error> {
        match E::DTYPE {
            DType::F64 => self.run_in::<E, f64>(scale, memory_limit),
            _ => self.run_in::<E, f32>(scale, memory_limit),
        }
    }

    fn run_in<E: Element, R: Real>(
        &self,
        scale: &[f64],
        memory_limit: usize,
    ) -> Result<Answer, Error> {
        let [samples, frames, _] = self.counts;
        let data: Vec<E> = self.frames.iter().map(|&x| E::of(x)).collect();
        let wide = [samples, frames, self.states()];
        let labels = self.labels();
        let batch = CtcBatch {
            frames: FrameArray::<R>::new(View::from_slice(&data, &self.counts)).unwrap(),
            input: self.input,
            blank: self.blank,
            lengths: &self.lengths,
            labels: &labels,
        };
        let options = options(memory_limit);
        let alone = ctc(&batch, &CtcOutputs::default(), &options)?;
        let mut grad = vec![E::of(77.0); data.len()];
        let mut posteriors = vec![E::of(77.0); samples * frames * self.states()];
        let rows = FrameArrayMut::new(ViewMut::from_slice(&mut grad, &self.counts)).unwrap();
        let states = FrameArrayMut::new(ViewMut::from_slice(&mut posteriors, &wide)).unwrap();
        let grad_rows = Some(GradientRows { rows: &rows, scale });
        let all = Some(PosteriorRows { rows: &states, blanks: true });
        let outputs = CtcOutputs { grad: grad_rows, posteriors: all, alignment: None };
        let loss = ctc(&batch, &outputs, &options)?;
        let same = |(a, b): (&f64, &f64)| a.to_bits() == b.to_bits();
        assert!(loss.iter().zip(&alone).all(same), "with a gradient {loss:?}, without {alone:?}");
        let to = |x: Vec<E>| x.into_iter().map(E::to::<f64>).collect();
        Ok(Answer { loss, grad: to(grad), posteriors: to(posteriors) })
    }

    pub fn run(&self) -> Answer {
        self.run_as::<f64>(&vec![1.0; self.counts[0]], LIMIT).unwrap()
    }

    /// The rows of sample n up to its length.
    pub fn rows(&self, n: usize) -> Vec<Vec<f64>> {
        let [_, frames, classes] = self.counts;
        let start = n * frames * classes;
        let rows = self.frames[start..start + self.lengths[n] * classes].chunks(classes);
        rows.map(<[f64]>::to_vec).collect()
    }
}

pub fn log_add(a: f64, b: f64) -> f64 {
    let max = a.max(b);
    if max == f64::NEG_INFINITY { max } else { max + ((a - max).exp() + (b - max).exp()).ln() }
}

pub fn log_softmax(row: &[f64]) -> Vec<f64> {
    let total = row.iter().copied().fold(f64::NEG_INFINITY, log_add);
    row.iter().map(|x| if *x == f64::NEG_INFINITY { *x } else { x - total }).collect()
}

/// The textbook: forward and backward sums of logarithms, relative to the largest of their frame. Loss and gradient by
/// the logits of one sample.
pub fn textbook(rows: &[Vec<f64>], labels: &[u32], blank: u32) -> (f64, Vec<Vec<f64>>) {
    let log_probs: Vec<_> = rows.iter().map(|row| log_softmax(row)).collect();
    let mut states = vec![blank];
    for &label in labels {
        states.extend([label, blank]);
    }
    let skips = |s: usize| s >= 2 && states[s] != blank && states[s] != states[s - 2];
    let (frames, size) = (rows.len(), states.len());
    let none = vec![vec![f64::NEG_INFINITY; size]; frames];
    let (mut ahead, mut behind) = (none.clone(), none);
    let center = |row: &mut Vec<f64>| {
        let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        if max > f64::NEG_INFINITY {
            for x in row.iter_mut() {
                *x -= max;
            }
        }
        max
    };
    let mut total = 0.0;
    for t in 0..frames {
        for s in 0..size {
            let mut sum = match t {
                0 if s < 2 => 0.0,
                0 => f64::NEG_INFINITY,
                _ => ahead[t - 1][s],
            };
            if t > 0 && s > 0 {
                sum = log_add(sum, ahead[t - 1][s - 1]);
            }
            if t > 0 && skips(s) {
                sum = log_add(sum, ahead[t - 1][s - 2]);
            }
            ahead[t][s] = sum + log_probs[t][states[s] as usize];
        }
        total += center(&mut ahead[t]);
    }
    for t in (0..frames).rev() {
        for s in 0..size {
            if t + 1 == frames {
                behind[t][s] = if s + 2 >= size { 0.0 } else { f64::NEG_INFINITY };
                continue;
            }
            let next = |s: usize| behind[t + 1][s] + log_probs[t + 1][states[s] as usize];
            let mut sum = next(s);
            if s + 1 < size {
                sum = log_add(sum, next(s + 1));
            }
            if s + 2 < size && skips(s + 2) {
                sum = log_add(sum, next(s + 2));
            }
            behind[t][s] = sum;
        }
        center(&mut behind[t]);
    }
    let last = &ahead[frames - 1];
    total += log_add(last[size - 1], if size > 1 { last[size - 2] } else { f64::NEG_INFINITY });
    let mut grad: Vec<Vec<_>> =
        log_probs.iter().map(|row| row.iter().map(|x| x.exp()).collect()).collect();
    for t in 0..frames {
        let own =
            (0..size).fold(f64::NEG_INFINITY, |sum, s| log_add(sum, ahead[t][s] + behind[t][s]));
        for s in 0..size {
            grad[t][states[s] as usize] -= (ahead[t][s] + behind[t][s] - own).exp();
        }
    }
    (-total, grad)
}

pub fn close(a: f64, b: f64, tolerance: f64, what: &str) {
    let same = a == b || (a.is_nan() && b.is_nan());
    assert!(
        same || (a - b).abs() <= tolerance,
        "{what}: {a:e} against {b:e}, tolerance {tolerance:e}"
    );
}

pub fn against_textbook(case: &Case, answer: &Answer, loss: f64, gradient: f64) {
    let [samples, frames, classes] = case.counts;
    for n in 0..samples {
        let (value, slopes) = textbook(&case.rows(n), &case.labels[n], case.blank);
        close(answer.loss[n], value, loss * value.max(1.0), "loss");
        for (t, slopes) in slopes.iter().enumerate() {
            let row = &answer.grad[(n * frames + t) * classes..][..classes];
            for (&a, &b) in row.iter().zip(slopes) {
                close(a, b, gradient, "gradient");
            }
        }
        let rest = case.lengths[n] * classes..frames * classes;
        assert!(answer.grad[n * frames * classes..][rest].iter().all(|&x| x == 0.0));
    }
}

/// The memory limit that would do, of a call that was refused.
pub fn needed<T>(refused: Result<T, Error>) -> usize {
    let error = refused.err().expect("refused");
    match (error.kind, error.value) {
        (Kind::Memory, Some(Number::Int(bytes))) => bytes as usize,
        _ => panic!("not refused for its memory, but {error:?}"),
    }
}

/// A batch of one sample.
pub fn one(rows: &[Vec<f64>], labels: &[u32], blank: u32, input: InputKind) -> Case {
    Case {
        frames: rows.concat(),
        counts: [1, rows.len(), rows.first().map_or(3, Vec::len)],
        input,
        blank,
        lengths: vec![rows.len()],
        labels: vec![labels.to_vec()],
    }
}
