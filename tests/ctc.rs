//! CTC against definitions that share no code with it.

use half::{bf16, f16};
use rustloss::losses::sequence::rows::{Element, Layout, Rows, RowsMut};
use rustloss::losses::sequence::{
    Alignment, Batch, Error, Gradient, Input, Labels, NO_STATE, Options, Outputs, ctc,
};
use rustloss::parallel::with_num_threads;
use rustloss::simd;
use std::collections::HashMap;
use std::num::NonZero;

/// The documented bounds, for `f64`.
const LOSS: f64 = 1e-12;
const GRADIENT: f64 = 1e-11;
/// The same for `f32`.
const LOSS_F32: f64 = 2e-7;
const GRADIENT_F32: f64 = 2e-6;

/// Splitmix64: numbers that every platform agrees on.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn below(&mut self, n: usize) -> usize {
        (self.uniform() * n as f64) as usize
    }

    fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }
}

/// A batch with everything it owns.
#[derive(Clone)]
struct Case {
    frames: Vec<f64>,
    counts: [usize; 3],
    input: Input,
    blank: u32,
    lengths: Vec<usize>,
    labels: Vec<Vec<u32>>,
}

/// What came out of a batch.
#[derive(Clone, Debug, PartialEq)]
struct Answer {
    loss: Vec<f64>,
    grad: Vec<f64>,
    posteriors: Vec<f64>,
}

const LIMIT: usize = 256 << 20;

fn options(memory_limit: usize) -> Options {
    Options { level: simd::level().unwrap(), parallel: true, memory_limit }
}

impl Case {
    fn random(random: &mut Random, counts: [usize; 3], len: usize, scale: f64) -> Self {
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
            input: Input::Logits,
            blank,
            lengths: vec![frames; samples],
            labels,
        }
    }

    fn states(&self) -> usize {
        self.labels.iter().map(|labels| 2 * labels.len() + 1).max().unwrap_or(0)
    }

    fn labels(&self) -> Labels {
        let mut offsets = vec![0];
        for labels in &self.labels {
            offsets.push(offsets.last().unwrap() + labels.len());
        }
        Labels::new(self.labels.concat(), offsets).unwrap()
    }

    fn run_as<E: Element>(&self, scale: &[f64], memory_limit: usize) -> Result<Answer, Error> {
        let [samples, frames, classes] = self.counts;
        let data: Vec<E> = self.frames.iter().map(|&x| E::of(x)).collect();
        let layout = Layout::contiguous(samples, frames, classes);
        let wide = Layout::contiguous(samples, frames, self.states());
        let labels = self.labels();
        let batch = Batch {
            frames: Rows::new(&data, layout).unwrap(),
            input: self.input,
            blank: self.blank,
            lengths: &self.lengths,
            labels: &labels,
        };
        let options = options(memory_limit);
        let alone = ctc(&batch, &Outputs::default(), &options)?;
        let mut grad = vec![E::of(77.0); data.len()];
        let mut posteriors = vec![E::of(77.0); samples * frames * self.states()];
        let rows = RowsMut::new(&mut grad, layout).unwrap();
        let states = RowsMut::new(&mut posteriors, wide).unwrap();
        let grad_rows = Some(Gradient { rows: &rows, scale });
        let outputs = Outputs { grad: grad_rows, posteriors: Some(&states), alignment: None };
        let loss = ctc(&batch, &outputs, &options)?;
        let same = |(a, b): (&f64, &f64)| a.to_bits() == b.to_bits();
        assert!(loss.iter().zip(&alone).all(same), "with a gradient {loss:?}, without {alone:?}");
        let to = |x: Vec<E>| x.into_iter().map(|x| x.to::<f64>()).collect();
        Ok(Answer { loss, grad: to(grad), posteriors: to(posteriors) })
    }

    fn run(&self) -> Answer {
        self.run_as::<f64>(&vec![1.0; self.counts[0]], LIMIT).unwrap()
    }

    /// The rows of sample n up to its length.
    fn rows(&self, n: usize) -> Vec<Vec<f64>> {
        let [_, frames, classes] = self.counts;
        let start = n * frames * classes;
        let rows = self.frames[start..start + self.lengths[n] * classes].chunks(classes);
        rows.map(<[f64]>::to_vec).collect()
    }
}

fn log_add(a: f64, b: f64) -> f64 {
    let max = a.max(b);
    if max == f64::NEG_INFINITY { max } else { max + ((a - max).exp() + (b - max).exp()).ln() }
}

fn log_softmax(row: &[f64]) -> Vec<f64> {
    let total = row.iter().copied().fold(f64::NEG_INFINITY, log_add);
    row.iter().map(|x| if *x == f64::NEG_INFINITY { *x } else { x - total }).collect()
}

/// The textbook: forward and backward sums of logarithms, relative to the largest of their frame. Loss and gradient by
/// the logits of one sample.
fn textbook(rows: &[Vec<f64>], labels: &[u32], blank: u32) -> (f64, Vec<Vec<f64>>) {
    let log_probs: Vec<_> = rows.iter().map(|row| log_softmax(row)).collect();
    let mut states = vec![blank];
    labels.iter().for_each(|&label| states.extend([label, blank]));
    let skips = |s: usize| s >= 2 && states[s] != blank && states[s] != states[s - 2];
    let (frames, size) = (rows.len(), states.len());
    let none = vec![vec![f64::NEG_INFINITY; size]; frames];
    let (mut ahead, mut behind) = (none.clone(), none);
    let center = |row: &mut Vec<f64>| {
        let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        if max > f64::NEG_INFINITY {
            row.iter_mut().for_each(|x| *x -= max);
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

fn close(a: f64, b: f64, tolerance: f64, what: &str) {
    let same = a == b || (a.is_nan() && b.is_nan());
    assert!(
        same || (a - b).abs() <= tolerance,
        "{what}: {a:e} against {b:e}, tolerance {tolerance:e}"
    );
}

fn against_textbook(case: &Case, answer: &Answer, loss: f64, gradient: f64) {
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

#[test]
fn random_shapes_match_the_textbook() {
    let mut random = Random(1);
    for scale in [1.0, 5.0, 30.0] {
        for _ in 0..40 {
            let classes = 2 + random.below(40);
            let frames = 1 + random.below(60);
            let len = random.below(frames.div_ceil(2) + 1);
            let samples = 1 + random.below(4);
            let mut case = Case::random(&mut random, [samples, frames, classes], len, scale);
            let labels = case.labels();
            for (n, length) in case.lengths.iter_mut().enumerate() {
                let needed = labels.frames_needed(n).clamp(1, frames);
                *length = needed + random.below(frames - needed + 1);
            }
            let answer = case.run();
            against_textbook(&case, &answer, LOSS, GRADIENT);
        }
    }
}

/// A batch of one sample.
fn one(rows: &[Vec<f64>], labels: &[u32], blank: u32, input: Input) -> Case {
    Case {
        frames: rows.concat(),
        counts: [1, rows.len(), rows.first().map_or(3, Vec::len)],
        input,
        blank,
        lengths: vec![rows.len()],
        labels: vec![labels.to_vec()],
    }
}

#[test]
fn long_utterances_match_the_textbook() {
    let mut random = Random(2);
    for scale in [1.0, 5.0, 30.0] {
        for (frames, len, classes) in [(1500, 300, 20), (900, 40, 64), (700, 600, 300)] {
            let case = Case::random(&mut random, [1, frames, classes], len, scale);
            against_textbook(&case, &case.run(), LOSS, GRADIENT);
        }
    }
}

#[test]
#[ignore = "takes half a minute without optimisation"]
fn very_long_utterances_match_the_textbook() {
    let mut random = Random(3);
    for scale in [1.0, 5.0, 30.0] {
        let case = Case::random(&mut random, [1, 4000, 64], 500, scale);
        against_textbook(&case, &case.run(), LOSS, GRADIENT);
    }
}

/// The rows of an idea of what is said at every frame, of height `peak` over noise.
fn peaked(
    random: &mut Random,
    frames: usize,
    labels: &[u32],
    classes: usize,
    peak: f64,
) -> Vec<Vec<f64>> {
    let mut rows = vec![vec![0.0; classes]; frames];
    for (t, row) in rows.iter_mut().enumerate() {
        row.iter_mut().for_each(|x| *x = random.normal());
        let place = t * labels.len() / frames;
        let fires = (t + 1) * labels.len() / frames > place;
        row[if fires { labels[place] as usize } else { 0 }] += peak;
    }
    rows
}

#[test]
fn sure_models_match_the_textbook() {
    let mut random = Random(4);
    let labels: Vec<u32> = (0..60).map(|_| 1 + random.below(29) as u32).collect();
    for peak in [10.0, 40.0, 150.0, 350.0, 700.0, 5000.0] {
        let mut rows = peaked(&mut random, 300, &labels, 30, peak);
        for wrong in [false, true] {
            if wrong {
                rows.reverse();
            }
            let case = one(&rows, &labels, 0, Input::Logits);
            against_textbook(&case, &case.run(), LOSS, GRADIENT);
        }
    }
}

/// The probability of every label sequence, and of every class at every frame together with it: all paths, one by one.
fn enumerate(probs: &[Vec<f64>], blank: u32) -> HashMap<Vec<u32>, (f64, Vec<Vec<f64>>)> {
    let classes = probs[0].len();
    let mut sums = HashMap::new();
    for code in 0..classes.pow(probs.len() as u32) {
        let path: Vec<_> =
            (0..probs.len()).map(|t| code / classes.pow(t as u32) % classes).collect();
        let p: f64 = path.iter().zip(probs).map(|(&k, row)| row[k]).product();
        let mut labels = path.clone();
        labels.dedup();
        labels.retain(|&k| k != blank as usize);
        let labels: Vec<_> = labels.into_iter().map(|k| k as u32).collect();
        let none = || (0.0, vec![vec![0.0; classes]; probs.len()]);
        let (total, joint) = sums.entry(labels).or_insert_with(none);
        *total += p;
        path.iter().zip(joint).for_each(|(&k, row)| row[k] += p);
    }
    sums
}

#[test]
fn every_short_label_sequence_matches_all_its_paths() {
    let mut random = Random(5);
    let mut cases = 0;
    for classes in 2..=4 {
        for frames in 1..=5 {
            let rows: Vec<Vec<f64>> = (0..frames)
                .map(|_| (0..classes).map(|_| 2.0 * random.normal()).collect())
                .collect();
            let blank = random.below(classes) as u32;
            let log_probs: Vec<_> = rows.iter().map(|row| log_softmax(row)).collect();
            let probs: Vec<Vec<f64>> =
                log_probs.iter().map(|row| row.iter().map(|x| x.exp()).collect()).collect();
            let sums = enumerate(&probs, blank);
            let mut everything = 0.0;
            let mut sequences = vec![vec![]];
            while let Some(labels) = sequences.pop() {
                cases += 1;
                if labels.len() < frames {
                    let others = (0..classes as u32).filter(|&label| label != blank);
                    sequences.extend(others.map(|label| [&labels[..], &[label]].concat()));
                }
                let answer = one(&rows, &labels, blank, Input::Logits).run();
                let Some((p, joint)) = sums.get(&labels) else {
                    assert_eq!(answer.loss[0], f64::INFINITY);
                    continue;
                };
                close(answer.loss[0], -p.ln(), LOSS * (-p.ln()).max(1.0), "loss");
                everything += (-answer.loss[0]).exp();
                let given = one(&log_probs, &labels, blank, Input::LogProbs).run();
                for (i, joint) in joint.concat().into_iter().enumerate() {
                    close(answer.grad[i], probs.concat()[i] - joint / p, GRADIENT, "by logits");
                    close(given.grad[i], -joint / p, GRADIENT, "by log-probabilities");
                }
            }
            close(everything, 1.0, LOSS, "all label sequences together");
        }
    }
    assert_eq!(cases, 681);
}

#[test]
fn gradients_match_finite_differences() {
    /// What the differences themselves are good for, at this step.
    const DIFFERENCE: f64 = 1e-8;
    const STEP: f64 = 1e-3;
    let mut random = Random(6);
    for input in [Input::Logits, Input::LogProbs] {
        let mut case = Case::random(&mut random, [2, 9, 5], 3, 1.0);
        case.input = input;
        let grad = case.run().grad;
        for i in 0..grad.len() {
            let at = |offset: f64| {
                let mut moved = case.clone();
                moved.frames[i] += offset * STEP;
                moved.run().loss.iter().sum::<f64>()
            };
            let slope = (8.0 * (at(1.0) - at(-1.0)) - (at(2.0) - at(-2.0))) / (12.0 * STEP);
            close(grad[i], slope, DIFFERENCE, "slope");
        }
    }
}

#[test]
fn torch_adds_what_a_softmax_before_would() {
    let mut random = Random(7);
    let mut case = Case::random(&mut random, [3, 12, 40], 4, 1.0);
    case.input = Input::LogProbs;
    let own = case.run();
    case.input = Input::LogProbsTorch;
    let torch = case.run();
    assert_eq!(own.loss, torch.loss);
    for ((a, b), x) in torch.grad.iter().zip(&own.grad).zip(&case.frames) {
        close(*a, x.exp() + b, GRADIENT, "torch's convention");
    }
}

#[test]
fn thread_count_changes_no_bit() {
    let mut random = Random(8);
    for (counts, len) in [([1, 700, 30], 90), ([7, 60, 12], 9), ([3, 40, 1500], 6)] {
        let mut case = Case::random(&mut random, counts, len, 4.0);
        for length in &mut case.lengths[1..] {
            *length -= random.below(*length / 3);
        }
        let with = |threads| with_num_threads(NonZero::new(threads).unwrap(), || case.run());
        let alone = with(1);
        for threads in [2, 3, 8] {
            assert_eq!(with(threads), alone, "{threads} threads");
        }
    }
}

#[test]
fn samples_do_not_know_of_each_other() {
    let mut random = Random(9);
    let case = Case::random(&mut random, [5, 50, 20], 8, 3.0);
    let all = case.run();
    let size = 50 * 20;
    for n in 0..5 {
        let single = Case {
            frames: case.frames[n * size..(n + 1) * size].to_vec(),
            counts: [1, 50, 20],
            lengths: vec![50],
            labels: vec![case.labels[n].clone()],
            ..case.clone()
        };
        let single = single.run();
        assert_eq!(single.loss[0].to_bits(), all.loss[n].to_bits());
        assert_eq!(single.grad, all.grad[n * size..(n + 1) * size]);
    }
}

#[test]
fn gradient_rows_sum_to_0() {
    /// Rounding of a row of a hundred numbers below 1.
    const ROUNDING: f64 = 1e-14;
    let mut random = Random(10);
    for classes in [3, 20, 100] {
        let case = Case::random(&mut random, [2, 80, classes], 20, 5.0);
        for row in case.run().grad.chunks(classes) {
            close(row.iter().sum(), 0.0, ROUNDING, "row");
        }
    }
}

#[test]
fn posteriors_are_the_occupancies() {
    let mut random = Random(11);
    let mut case = Case::random(&mut random, [3, 60, 9], 11, 2.0);
    case.labels[1].truncate(4);
    case.lengths[2] = 45;
    case.input = Input::LogProbs;
    let answer = case.run();
    let states = case.states();
    for n in 0..3 {
        for t in 0..60 {
            let row = &answer.posteriors[(n * 60 + t) * states..][..states];
            let mut classes = [0.0; 9];
            for (s, p) in row.iter().enumerate() {
                let label = case.labels[n].get(s / 2).filter(|_| s % 2 == 1);
                classes[*label.unwrap_or(&case.blank) as usize] += p;
            }
            for (k, p) in classes.into_iter().enumerate() {
                close(p, -answer.grad[(n * 60 + t) * 9 + k], GRADIENT, "posterior");
            }
            let total = if t < case.lengths[n] { 1.0 } else { 0.0 };
            close(row.iter().sum(), total, GRADIENT, "all states");
        }
    }
}

/// The rows of inputs rounded to `E`, and what they give in it and in `f64`.
fn precision<E: Element>(case: &Case, loss: f64, gradient: f64) {
    let mut exact = case.clone();
    exact.frames.iter_mut().for_each(|x| *x = E::of(*x).to());
    let scale = vec![1.0; case.counts[0]];
    let (answer, exact) = (case.run_as::<E>(&scale, LIMIT).unwrap(), exact.run());
    for (a, b) in answer.loss.iter().zip(&exact.loss) {
        close(*a, *b, loss * b.max(1.0), "loss");
    }
    for (a, b) in answer.grad.iter().zip(&exact.grad) {
        close(*a, *b, gradient, "gradient");
    }
}

#[test]
fn narrow_types_lose_no_more_than_their_own_rounding() {
    let mut random = Random(12);
    for (counts, len) in
        [([2, 300, 64], 50), ([2, 60, 2000], 20), ([1, 2000, 2], 300), ([2, 50, 40], 5)]
    {
        for scale in [1.0, 5.0] {
            let case = Case::random(&mut random, counts, len, scale);
            precision::<f32>(&case, LOSS_F32, GRADIENT_F32);
            precision::<f16>(&case, LOSS_F32, GRADIENT_F32 + f64::from(f16::EPSILON) / 2.0);
            precision::<bf16>(&case, LOSS_F32, GRADIENT_F32 + f64::from(bf16::EPSILON) / 2.0);
        }
    }
}

#[test]
fn memory_limit_changes_no_bit() {
    let mut random = Random(13);
    for scale in [2.0, 400.0] {
        let case = Case::random(&mut random, [2, 600, 12], 30, scale);
        let scales = [1.0, -0.5];
        let whole = case.run_as::<f64>(&scales, LIMIT).unwrap();
        let Err(Error::MemoryLimit { sample: 0, bytes }) = case.run_as::<f64>(&scales, 1000) else {
            panic!("600 frames in 1000 bytes");
        };
        for limit in [bytes, 2 * bytes, 4 * bytes, 8 * bytes] {
            assert_eq!(case.run_as::<f64>(&scales, limit).unwrap(), whole, "limit {limit}");
        }
        let refused = case.run_as::<f64>(&scales, bytes - 1);
        assert_eq!(refused, Err(Error::MemoryLimit { sample: 0, bytes }));
    }
}

#[test]
fn infeasible_samples_are_infinite_with_gradient_0() {
    let rows = vec![vec![0.3, -0.2, 1.0]; 2];
    let answer = one(&rows, &[1, 1], 0, Input::Logits).run();
    assert_eq!((answer.loss[0], answer.grad), (f64::INFINITY, vec![0.0; 6]));
    let rows = vec![vec![0.3, f64::NEG_INFINITY, 1.0]; 5];
    let answer = one(&rows, &[2, 1], 0, Input::Logits).run();
    assert_eq!((answer.loss[0], answer.grad), (f64::INFINITY, vec![0.0; 15]));
    let rows = vec![vec![0.3, 0.1, 1.0], vec![f64::NEG_INFINITY; 3], vec![0.3, 0.1, 1.0]];
    let answer = one(&rows, &[2], 0, Input::Logits).run();
    assert_eq!((answer.loss[0], answer.grad), (f64::INFINITY, vec![0.0; 9]));
}

#[test]
fn no_frames_and_no_labels() {
    let none = Case {
        counts: [2, 0, 3],
        lengths: vec![0, 0],
        labels: vec![vec![], vec![1]],
        ..one(&[], &[], 0, Input::Logits)
    };
    assert_eq!(none.run().loss, [0.0, f64::INFINITY]);
    let rows = vec![vec![0.0; 3]; 2];
    let answer = one(&rows, &[], 2, Input::Logits).run();
    close(answer.loss[0], 2.0 * 3.0_f64.ln(), LOSS, "two blanks of three classes");
    let empty = Case {
        counts: [0, 4, 3],
        frames: vec![],
        lengths: vec![],
        labels: vec![],
        ..one(&[], &[], 0, Input::Logits)
    };
    assert_eq!(empty.run().loss, [0.0; 0]);
}

#[test]
fn impossible_classes_are_left_out() {
    let mut rows = vec![vec![0.3, -0.2, 1.0, 0.5]; 4];
    let without: Vec<_> = rows.iter().map(|row| row[..3].to_vec()).collect();
    rows.iter_mut().for_each(|row| row[3] = f64::NEG_INFINITY);
    let (with, without) = (
        one(&rows, &[1, 2], 0, Input::Logits).run(),
        one(&without, &[1, 2], 0, Input::Logits).run(),
    );
    close(with.loss[0], without.loss[0], LOSS, "loss");
    for (with, without) in with.grad.chunks(4).zip(without.grad.chunks(3)) {
        assert_eq!(with[3], 0.0);
        with.iter().zip(without).for_each(|(a, b)| close(*a, *b, GRADIENT, "gradient"));
    }
    rows[1][1] = f64::NEG_INFINITY;
    let case = one(&rows, &[1, 2], 0, Input::Logits);
    against_textbook(&case, &case.run(), LOSS, GRADIENT);
}

#[test]
fn nan_and_infinity_stay_in_their_sample() {
    let mut random = Random(14);
    for classes in [5, 60] {
        let case = Case::random(&mut random, [3, 20, classes], 4, 1.0);
        let good = case.run();
        for (bad, input) in [
            (f64::NAN, Input::Logits),
            (-f64::NAN, Input::Logits),
            (f64::INFINITY, Input::Logits),
            (f64::NAN, Input::LogProbs),
            (f64::INFINITY, Input::LogProbsTorch),
        ] {
            for class in 0..classes {
                let mut case = Case { input, ..case.clone() };
                let good = if input == Input::Logits { good.clone() } else { case.run() };
                case.frames[(20 + 7) * classes + class] = bad;
                let answer = case.run();
                assert!(answer.loss[1].is_nan(), "{bad} at class {class}, {input:?}");
                let size = 20 * classes;
                assert!(answer.grad[size..2 * size].iter().all(|x| x.is_nan()));
                for n in [0, 2] {
                    assert_eq!(answer.loss[n], good.loss[n]);
                    let rows = n * size..(n + 1) * size;
                    assert_eq!(answer.grad[rows.clone()], good.grad[rows]);
                }
                let muted = case.run_as::<f64>(&[1.0, 0.0, 1.0], LIMIT).unwrap();
                assert!(muted.grad[size..2 * size].iter().all(|&x| x == 0.0));
            }
        }
    }
}

#[test]
fn frames_behind_the_length_are_not_read() {
    let mut random = Random(15);
    let mut case = Case::random(&mut random, [2, 20, 6], 4, 1.0);
    case.lengths = vec![13, 20];
    let good = case.run();
    case.frames[13 * 6..20 * 6].fill(f64::NAN);
    assert_eq!(case.run(), good);
    assert!(good.grad[13 * 6..20 * 6].iter().all(|&x| x == 0.0));
}

#[test]
fn scale_multiplies_the_gradient_of_its_sample() {
    let mut random = Random(16);
    for classes in [6, 70] {
        let case = Case::random(&mut random, [3, 20, classes], 4, 1.0);
        let plain = case.run().grad;
        let scaled = case.run_as::<f64>(&[2.0, 0.0, -4.0], LIMIT).unwrap().grad;
        for (i, (scaled, plain)) in scaled.into_iter().zip(plain).enumerate() {
            close(scaled, [2.0, 0.0, -4.0][i / (20 * classes)] * plain, GRADIENT, "scaled");
        }
    }
}

#[test]
fn sure_and_right_keeps_its_digits() {
    /// The loss is a sum of numbers near 0, each rounded beside 1.
    const SURE: f64 = 1e-14;
    // Two frames, one wrong class each at exp(-30): the only way to fail is to be wrong twice.
    let rows = vec![vec![0.0, 30.0]; 2];
    let answer = one(&rows, &[1], 0, Input::Logits).run();
    close(answer.loss[0], (-60.0_f64).exp(), SURE, "wrong twice");
    assert!(answer.loss[0] >= 0.0);
    // No path but one: the mass of the others is all there is.
    let rows = vec![vec![0.0, 40.0]; 1];
    let answer = one(&rows, &[1], 0, Input::Logits).run();
    close(answer.loss[0], (-40.0_f64).exp(), SURE, "one frame");
    let answer = one(&vec![vec![0.0, 200.0]; 3], &[1], 0, Input::Logits).run();
    assert!((0.0..SURE).contains(&answer.loss[0]));
    answer.grad.iter().for_each(|&x| close(x, 0.0, SURE, "gradient"));
}

#[test]
fn gap_of_400_is_no_infinity() {
    let rows = vec![vec![0.0, 0.0, -400.0], vec![0.0, -400.0, 0.0]];
    let case = one(&rows, &[2, 1], 0, Input::Logits);
    let answer = case.run();
    close(answer.loss[0], 800.0 + 2.0 * 2.0_f64.ln(), LOSS * 800.0, "gap");
    against_textbook(&case, &answer, LOSS, GRADIENT);
}

#[test]
fn any_strides_give_the_same() {
    let mut random = Random(17);
    let case = Case::random(&mut random, [3, 11, 5], 3, 1.0);
    let expected = case.run();
    let (samples, frames, classes) = (3, 11, 5);
    // Frames before samples, both backwards, with a gap between rows.
    let gap = classes + 2;
    let layout = Layout {
        origin: (samples * frames - 1) * gap,
        strides: [-(gap as isize), -((samples * gap) as isize)],
        counts: [samples, frames],
        width: classes,
    };
    let mut data = vec![f64::NAN; samples * frames * gap];
    let mut grad = vec![9.0; data.len()];
    let place =
        |n, t| (layout.origin as isize + n * layout.strides[0] + t * layout.strides[1]) as usize;
    for n in 0..samples {
        for t in 0..frames {
            let row = &case.frames[(n * frames + t) * classes..][..classes];
            data[place(n as isize, t as isize)..][..classes].copy_from_slice(row);
        }
    }
    let labels = case.labels();
    let batch = Batch {
        frames: Rows::new(&data, layout).unwrap(),
        input: case.input,
        blank: case.blank,
        lengths: &case.lengths,
        labels: &labels,
    };
    let rows = RowsMut::new(&mut grad, layout).unwrap();
    let scale = [1.0; 3];
    let outputs =
        Outputs { grad: Some(Gradient { rows: &rows, scale: &scale }), ..Outputs::default() };
    let loss = ctc(&batch, &outputs, &options(LIMIT)).unwrap();
    assert_eq!(loss, expected.loss);
    for n in 0..samples {
        for t in 0..frames {
            let row = &expected.grad[(n * frames + t) * classes..][..classes];
            assert_eq!(&grad[place(n as isize, t as isize)..][..classes], row);
        }
    }
    assert_eq!(grad.iter().filter(|&&x| x == 9.0).count(), 2 * samples * frames);
}

#[test]
fn layouts_that_leave_or_overlap_are_refused() {
    let mut data = [0.0; 12];
    let layout = |origin, strides, counts, width| Layout { origin, strides, counts, width };
    assert!(Rows::new(&data, layout(0, [6, 3], [2, 2], 3)).is_some());
    assert!(Rows::new(&data, layout(1, [6, 3], [2, 2], 3)).is_none());
    assert!(Rows::new(&data, layout(2, [6, -3], [2, 2], 3)).is_none());
    assert!(Rows::new(&data, layout(0, [isize::MAX, isize::MAX], [3, 3], 3)).is_none());
    assert!(Rows::new(&data, layout(0, [0, 0], [9, 9], 3)).is_some(), "reading twice does no harm");
    assert!(RowsMut::new(&mut data, layout(0, [6, 3], [2, 2], 3)).is_some());
    assert!(RowsMut::new(&mut data, layout(0, [3, 6], [2, 2], 3)).is_some());
    assert!(RowsMut::new(&mut data, layout(0, [0, 3], [2, 2], 3)).is_none());
    assert!(RowsMut::new(&mut data, layout(0, [5, 3], [2, 2], 3)).is_none());
    assert!(RowsMut::new(&mut data, layout(0, [6, 2], [2, 2], 3)).is_none());
}

#[test]
fn wrong_labels_and_lengths_are_named() {
    let mut random = Random(18);
    let case = Case::random(&mut random, [2, 9, 5], 3, 1.0);
    let with = |change: &dyn Fn(&mut Case)| {
        let mut case = case.clone();
        change(&mut case);
        case.run_as::<f64>(&[1.0; 2], LIMIT).map(|_| ())
    };
    let label = |label| Err(Error::Label { sample: 1, position: 2, label });
    assert_eq!(with(&|case| case.labels[1][2] = 5), label(5));
    assert_eq!(with(&|case| case.labels[1][2] = u32::MAX), label(u32::MAX));
    assert_eq!(with(&|case| case.labels[1][2] = case.blank), label(case.blank));
    assert_eq!(with(&|case| case.lengths[1] = 10), Err(Error::Length { sample: 1, length: 10 }));
    assert_eq!(with(&|case| case.blank = 5), Err(Error::Blank));
    assert_eq!(with(&|case| case.lengths.truncate(1)), Err(Error::Shape));
    assert!(Labels::new(vec![1, 2], vec![0, 2, 1]).is_none());
    assert!(Labels::new(vec![1, 2], vec![0, 1]).is_none());
    assert!(Labels::new(vec![1, 2], vec![]).is_none());
}

/// The path that was found for each frame of a batch, with its logarithms and posteriors.
fn align(case: &Case, memory_limit: usize) -> Result<(Vec<u32>, Vec<f64>, Vec<f64>), Error> {
    let [samples, frames, classes] = case.counts;
    let layout = Layout::contiguous(samples, frames, 1);
    let count = samples * frames;
    let (mut states, mut log_probs, mut posteriors) =
        (vec![7; count], vec![7.0; count], vec![7.0; count]);
    let alignment = Alignment {
        states: RowsMut::new(&mut states, layout).unwrap(),
        log_probs: RowsMut::new(&mut log_probs, layout).unwrap(),
        posteriors: RowsMut::new(&mut posteriors, layout).unwrap(),
    };
    let labels = case.labels();
    let batch = Batch {
        frames: Rows::new(&case.frames, Layout::contiguous(samples, frames, classes)).unwrap(),
        input: case.input,
        blank: case.blank,
        lengths: &case.lengths,
        labels: &labels,
    };
    let outputs = Outputs { alignment: Some(&alignment), ..Outputs::default() };
    ctc(&batch, &outputs, &options(memory_limit))?;
    Ok((states, log_probs, posteriors))
}

/// Every path of states from `state` on, frame by frame.
fn paths(labels: &[u32], frames: usize, path: &mut Vec<usize>, found: &mut Vec<Vec<usize>>) {
    let end = 2 * labels.len();
    if path.len() == frames {
        if path.last().is_some_and(|&state| state + 1 >= end) {
            found.push(path.clone());
        }
        return;
    }
    let next: Vec<usize> = match path.last() {
        None => vec![0, 1],
        Some(&s) if s % 2 == 1 && s + 2 < end && labels[s / 2] != labels[s / 2 + 1] => {
            vec![s, s + 1, s + 2]
        }
        Some(&s) => vec![s, s + 1],
    };
    for state in next.into_iter().filter(|&state| state <= end) {
        path.push(state);
        paths(labels, frames, path, found);
        path.pop();
    }
}

#[test]
fn alignment_is_the_best_of_all_paths() {
    let mut random = Random(20);
    for _ in 0..60 {
        let frames = 1 + random.below(7);
        let len = random.below(frames.min(4) + 1);
        let mut case = Case::random(&mut random, [1, frames, 4], len, 2.0);
        case.input = Input::LogProbs;
        let mut found = Vec::new();
        paths(&case.labels[0], frames, &mut Vec::new(), &mut found);
        let class = |s: usize| if s % 2 == 1 { case.labels[0][s / 2] } else { case.blank } as usize;
        let score = |path: &Vec<usize>| -> f64 {
            path.iter().enumerate().map(|(t, &s)| case.frames[t * 4 + class(s)]).sum()
        };
        let best = found.into_iter().max_by(|a, b| score(a).total_cmp(&score(b)));
        let (states, log_probs, posteriors) = align(&case, LIMIT).unwrap();
        let Some(best) = best else {
            assert_eq!(states, vec![NO_STATE; frames]);
            assert_eq!(log_probs, vec![f64::NEG_INFINITY; frames]);
            assert_eq!(posteriors, vec![0.0; frames]);
            continue;
        };
        assert_eq!(states.iter().map(|&s| s as usize).collect::<Vec<_>>(), best);
        let all = case.run().posteriors;
        for (t, &s) in best.iter().enumerate() {
            assert_eq!(log_probs[t], case.frames[t * 4 + class(s)]);
            assert_eq!(posteriors[t], all[t * (2 * len + 1) + s]);
        }
    }
}

#[test]
fn long_alignments_reach_the_best_score() {
    let mut random = Random(21);
    for scale in [1.0, 30.0, 1e4] {
        let mut case = Case::random(&mut random, [2, 500, 12], 60, scale);
        case.lengths[1] = 400;
        let whole = align(&case, LIMIT).unwrap();
        let Err(Error::MemoryLimit { bytes, .. }) = align(&case, 0) else { panic!("no memory") };
        assert_eq!(align(&case, bytes).unwrap(), whole, "with checkpoints");
        for n in 0..2 {
            let (rows, labels) = (case.rows(n), &case.labels[n]);
            let log_probs: Vec<_> = rows.iter().map(|row| log_softmax(row)).collect();
            let mut best = vec![f64::NEG_INFINITY; 121];
            for (t, row) in log_probs.iter().enumerate() {
                let old = best.clone();
                for s in 0..121 {
                    let class = if s % 2 == 1 { labels[s / 2] } else { case.blank };
                    let skips = s % 2 == 1 && s > 1 && labels[s / 2] != labels[s / 2 - 1];
                    let from = if t == 0 {
                        if s < 2 { 0.0 } else { f64::NEG_INFINITY }
                    } else {
                        let one = if s > 0 { old[s - 1] } else { f64::NEG_INFINITY };
                        let two = if skips { old[s - 2] } else { f64::NEG_INFINITY };
                        old[s].max(one).max(two)
                    };
                    best[s] = from + row[class as usize];
                }
            }
            let frames = n * 500..n * 500 + rows.len();
            let mut path = whole.0[frames.clone()].to_vec();
            let score: f64 = whole.1[frames.clone()].iter().sum();
            let expected = best[119].max(best[120]);
            close(score, expected, LOSS * expected.abs(), "score");
            for (t, &s) in path.iter().enumerate() {
                let class = if s % 2 == 1 { labels[s as usize / 2] } else { case.blank };
                let own = log_probs[t][class as usize];
                close(whole.1[n * 500 + t], own, LOSS * own.abs().max(1.0), "logarithm");
            }
            path.dedup();
            path.retain(|s| s % 2 == 1);
            assert_eq!(path, (0..60).map(|u| 2 * u + 1).collect::<Vec<_>>());
            let rest = frames.end..(n + 1) * 500;
            assert!(whole.0[rest.clone()].iter().all(|&s| s == NO_STATE));
            assert!(whole.1[rest.clone()].iter().chain(&whole.2[rest]).all(|&x| x == 0.0));
        }
    }
}

#[test]
fn ties_stay_before_they_advance_before_they_skip() {
    let flat = |labels: &[u32], frames: usize| {
        let case = one(&vec![vec![0.0; 4]; frames], labels, 0, Input::LogProbs);
        align(&case, LIMIT).unwrap().0
    };
    // From the last label backwards: staying as long as there is something to stay in.
    assert_eq!(flat(&[1, 2], 4), [1, 3, 3, 3]);
    assert_eq!(flat(&[1, 1], 4), [1, 2, 3, 3]);
    assert_eq!(flat(&[], 2), [0, 0]);
    // Advancing and skipping alike lead to the second label of the last frame.
    let rows = vec![vec![0.0, 0.0, -9.0], vec![0.0, 0.0, -9.0], vec![0.0; 3]];
    let case = one(&rows, &[1, 2], 0, Input::LogProbs);
    assert_eq!(align(&case, LIMIT).unwrap().0, [1, 2, 3]);
}
