//! Values and gradients: against the textbook, all paths, finite differences.

use crate::case::*;
use half::{bf16, f16};
use rustloss::array::{View, ViewMut};
use rustloss::losses::sequence::{
    CtcBatch, CtcOutputs, FrameArray, FrameArrayMut, InputKind, PosteriorRows, ctc,
};
use rustloss::num::Element;
use std::collections::HashMap;

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
        for x in row.iter_mut() {
            *x = random.normal();
        }
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
            let case = one(&rows, &labels, 0, InputKind::Logits);
            against_textbook(&case, &case.run(), LOSS, GRADIENT);
        }
    }
}

/// The lattice that the comment of `src/losses/sequence/ctc/mod.rs` works out by hand.
#[test]
fn lattice_by_hand() {
    let probs = [0.5_f64, 0.25, 0.25];
    let case = one(&vec![probs.map(f64::ln).to_vec(); 4], &[1, 2], 0, InputKind::Logits);
    let answer = case.run();
    close(answer.loss[0], -(39.0_f64 / 256.0).ln(), LOSS, "loss");
    // For each state the products of forward and backward sums, frame by frame.
    let products = [[16, 4, 0, 0], [23, 18, 7, 0], [0, 10, 10, 0], [0, 7, 18, 23], [0, 0, 4, 16]];
    for t in 0..4 {
        let mut slopes = probs;
        for (s, products) in products.iter().enumerate() {
            let occupancy = f64::from(products[t]) / 39.0;
            close(answer.posteriors[5 * t + s], occupancy, GRADIENT, "occupancy");
            slopes[[0, 1, 0, 2, 0][s]] -= occupancy;
        }
        for (class, &slope) in slopes.iter().enumerate() {
            close(answer.grad[3 * t + class], slope, GRADIENT, "gradient");
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
                let answer = one(&rows, &labels, blank, InputKind::Logits).run();
                let Some((p, joint)) = sums.get(&labels) else {
                    assert_eq!(answer.loss[0], f64::INFINITY);
                    continue;
                };
                close(answer.loss[0], -p.ln(), LOSS * (-p.ln()).max(1.0), "loss");
                everything += (-answer.loss[0]).exp();
                let given = one(&log_probs, &labels, blank, InputKind::LogProbs).run();
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
    for input in [InputKind::Logits, InputKind::LogProbs] {
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
    case.input = InputKind::LogProbs;
    let own = case.run();
    case.input = InputKind::LogProbsTorch;
    let torch = case.run();
    assert_eq!(own.loss, torch.loss);
    for ((a, b), x) in torch.grad.iter().zip(&own.grad).zip(&case.frames) {
        close(*a, x.exp() + b, GRADIENT, "torch's convention");
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
    case.input = InputKind::LogProbs;
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

#[test]
fn posteriors_of_labels_alone_are_those_among_the_blanks() {
    let mut random = Random(13);
    let mut case = Case::random(&mut random, [3, 20, 9], 6, 2.0);
    case.labels[1].truncate(2);
    case.lengths[1] = 13;
    case.frames[2 * 20 * 9] = f64::NAN;
    let mut alone = vec![77.0_f64; 3 * 20 * 6];
    let rows = FrameArrayMut::new(ViewMut::from_slice(&mut alone, &[3, 20, 6])).unwrap();
    let labels = case.labels();
    let batch = CtcBatch {
        frames: FrameArray::<f64>::new(View::from_slice(&case.frames, &[3, 20, 9])).unwrap(),
        input: case.input,
        blank: case.blank,
        lengths: &case.lengths,
        labels: &labels,
    };
    let posteriors = Some(PosteriorRows { rows: &rows, blanks: false });
    ctc(&batch, &CtcOutputs { posteriors, ..CtcOutputs::default() }, &options(LIMIT)).unwrap();
    let all = case.run().posteriors;
    for (alone, all) in alone.chunks(6).zip(all.chunks(13)) {
        for (u, p) in alone.iter().enumerate() {
            let among = all[2 * u + 1];
            assert!(p.to_bits() == among.to_bits() || (p.is_nan() && among.is_nan()));
        }
    }
    let rest = alone[20 * 6..40 * 6].chunks(6).map(|row| &row[2..]).chain([&alone[33 * 6..40 * 6]]);
    assert!(rest.flatten().all(|&p| p == 0.0));
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
