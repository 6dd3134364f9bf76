//! The most probable path against all paths, and against a plain search.

use crate::case::*;
use rustloss::array::View;
use rustloss::error::Error;
use rustloss::losses::sequence::{
    CtcBatch, CtcOutputs, FrameArray, InputKind, NO_STATE, PathFrame, ctc,
};

/// For each frame of a batch its state, the logarithm and the posterior.
type Path = (Vec<u32>, Vec<f64>, Vec<f64>);

fn align(case: &Case, memory_limit: usize) -> Result<Path, Error> {
    let [samples, frames, _] = case.counts;
    // What is not written stays wrong.
    let unwritten = |_| {
        let frame = PathFrame::new();
        frame.set_state(7, 7.0);
        frame.set_posterior(7.0);
        frame
    };
    let path: Vec<_> = (0..samples * frames).map(unwritten).collect();
    let labels = case.labels();
    let batch = CtcBatch {
        frames: FrameArray::<f64>::new(View::from_slice(&case.frames, &case.counts)).unwrap(),
        input: case.input,
        blank: case.blank,
        lengths: &case.lengths,
        labels: &labels,
    };
    let outputs = CtcOutputs { alignment: Some(&path), ..CtcOutputs::default() };
    ctc(&batch, &outputs, &options(memory_limit))?;
    let numbers = |of: fn(&PathFrame) -> f64| path.iter().map(of).collect();
    let states = path.iter().map(PathFrame::state).collect();
    Ok((states, numbers(PathFrame::log_prob), numbers(PathFrame::posterior)))
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
        case.input = InputKind::LogProbs;
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
        let bytes = needed(align(&case, 0));
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
        let case = one(&vec![vec![0.0; 4]; frames], labels, 0, InputKind::LogProbs);
        align(&case, LIMIT).unwrap().0
    };
    // From the last label backwards: staying as long as there is something to stay in.
    assert_eq!(flat(&[1, 2], 4), [1, 3, 3, 3]);
    assert_eq!(flat(&[1, 1], 4), [1, 2, 3, 3]);
    assert_eq!(flat(&[], 2), [0, 0]);
    // Advancing and skipping alike lead to the second label of the last frame.
    let rows = vec![vec![0.0, 0.0, -9.0], vec![0.0, 0.0, -9.0], vec![0.0; 3]];
    let case = one(&rows, &[1, 2], 0, InputKind::LogProbs);
    assert_eq!(align(&case, LIMIT).unwrap().0, [1, 2, 3]);
}
