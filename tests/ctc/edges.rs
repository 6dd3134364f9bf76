//! The edges of the domain, and what lies beyond.

use crate::case::*;
use half::{bf16, f16};
use rustloss::array::{Shape, Strides, View, ViewMut};
use rustloss::error::Kind;
use rustloss::losses::sequence::{
    CtcBatch, CtcOutputs, FrameArray, FrameArrayMut, GradientRows, InputKind, LabelSequences, ctc,
};
use rustloss::math::Real;
use rustloss::num::{DType, Element};

#[test]
fn infeasible_samples_are_infinite_with_gradient_0() {
    let rows = vec![vec![0.3, -0.2, 1.0]; 2];
    let answer = one(&rows, &[1, 1], 0, InputKind::Logits).run();
    assert_eq!((answer.loss[0], answer.grad), (f64::INFINITY, vec![0.0; 6]));
    let rows = vec![vec![0.3, f64::NEG_INFINITY, 1.0]; 5];
    let answer = one(&rows, &[2, 1], 0, InputKind::Logits).run();
    assert_eq!((answer.loss[0], answer.grad), (f64::INFINITY, vec![0.0; 15]));
    let rows = vec![vec![0.3, 0.1, 1.0], vec![f64::NEG_INFINITY; 3], vec![0.3, 0.1, 1.0]];
    let answer = one(&rows, &[2], 0, InputKind::Logits).run();
    assert_eq!((answer.loss[0], answer.grad), (f64::INFINITY, vec![0.0; 9]));
}

#[test]
fn no_frames_and_no_labels() {
    let none = Case {
        counts: [2, 0, 3],
        lengths: vec![0, 0],
        labels: vec![vec![], vec![1]],
        ..one(&[], &[], 0, InputKind::Logits)
    };
    assert_eq!(none.run().loss, [0.0, f64::INFINITY]);
    let rows = vec![vec![0.0; 3]; 2];
    let answer = one(&rows, &[], 2, InputKind::Logits).run();
    close(answer.loss[0], 2.0 * 3.0_f64.ln(), LOSS, "two blanks of three classes");
    let empty = Case {
        counts: [0, 4, 3],
        frames: vec![],
        lengths: vec![],
        labels: vec![],
        ..one(&[], &[], 0, InputKind::Logits)
    };
    assert_eq!(empty.run().loss, [0.0; 0]);
}

#[test]
fn impossible_classes_are_left_out() {
    let mut rows = vec![vec![0.3, -0.2, 1.0, 0.5]; 4];
    let without: Vec<_> = rows.iter().map(|row| row[..3].to_vec()).collect();
    for row in &mut rows {
        row[3] = f64::NEG_INFINITY;
    }
    let (with, without) = (
        one(&rows, &[1, 2], 0, InputKind::Logits).run(),
        one(&without, &[1, 2], 0, InputKind::Logits).run(),
    );
    close(with.loss[0], without.loss[0], LOSS, "loss");
    for (with, without) in with.grad.chunks(4).zip(without.grad.chunks(3)) {
        assert_eq!(with[3], 0.0);
        with.iter().zip(without).for_each(|(a, b)| close(*a, *b, GRADIENT, "gradient"));
    }
    rows[1][1] = f64::NEG_INFINITY;
    let case = one(&rows, &[1, 2], 0, InputKind::Logits);
    against_textbook(&case, &case.run(), LOSS, GRADIENT);
}

#[test]
fn nan_and_infinity_stay_in_their_sample() {
    let mut random = Random(14);
    for classes in [5, 60] {
        let case = Case::random(&mut random, [3, 20, classes], 4, 1.0);
        let good = case.run();
        for (bad, input) in [
            (f64::NAN, InputKind::Logits),
            (-f64::NAN, InputKind::Logits),
            (f64::INFINITY, InputKind::Logits),
            (f64::NAN, InputKind::LogProbs),
            (f64::INFINITY, InputKind::LogProbsTorch),
        ] {
            for class in 0..classes {
                let mut case = Case { input, ..case.clone() };
                let good = if input == InputKind::Logits { good.clone() } else { case.run() };
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
    let answer = one(&rows, &[1], 0, InputKind::Logits).run();
    close(answer.loss[0], (-60.0_f64).exp(), SURE, "wrong twice");
    assert!(answer.loss[0] >= 0.0);
    // No path but one: the mass of the others is all there is.
    let rows = vec![vec![0.0, 40.0]; 1];
    let answer = one(&rows, &[1], 0, InputKind::Logits).run();
    close(answer.loss[0], (-40.0_f64).exp(), SURE, "one frame");
    let answer = one(&vec![vec![0.0, 200.0]; 3], &[1], 0, InputKind::Logits).run();
    assert!((0.0..SURE).contains(&answer.loss[0]));
    answer.grad.iter().for_each(|&x| close(x, 0.0, SURE, "gradient"));
}

#[test]
fn distance_of_400_is_no_infinity() {
    let rows = vec![vec![0.0, 0.0, -400.0], vec![0.0, -400.0, 0.0]];
    let case = one(&rows, &[2, 1], 0, InputKind::Logits);
    let answer = case.run();
    close(answer.loss[0], 800.0 + 2.0 * 2.0_f64.ln(), LOSS * 800.0, "distance");
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
    let origin = (samples * frames - 1) * gap;
    let strides = [-(gap as isize), -((samples * gap) as isize), 1];
    let shape = Shape::from_slice(&[samples, frames, classes]);
    let bytes = Strides::from_slice(&strides.map(|stride| stride * size_of::<f64>() as isize));
    let mut data = vec![f64::NAN; samples * frames * gap];
    let mut grad = vec![9.0; data.len()];
    let place = |n, t| (origin as isize + n * strides[0] + t * strides[1]) as usize;
    for n in 0..samples {
        for t in 0..frames {
            let row = &case.frames[(n * frames + t) * classes..][..classes];
            data[place(n as isize, t as isize)..][..classes].copy_from_slice(row);
        }
    }
    let labels = case.labels();
    let first = data.as_ptr().wrapping_add(origin).cast();
    // SAFETY: the strides lead to elements of `data` only.
    let view = unsafe { View::from_raw_parts(first, DType::F64, shape.clone(), bytes.clone()) };
    let batch = CtcBatch {
        frames: FrameArray::<f64>::new(view).unwrap(),
        input: case.input,
        blank: case.blank,
        lengths: &case.lengths,
        labels: &labels,
    };
    let first = grad.as_mut_ptr().wrapping_add(origin).cast();
    // SAFETY: the strides lead to elements of `grad` only, to each once.
    let view = unsafe { ViewMut::from_raw_parts(first, DType::F64, shape, bytes) };
    let rows = FrameArrayMut::new(view).unwrap();
    let scale = [1.0; 3];
    let outputs = CtcOutputs {
        grad: Some(GradientRows { rows: &rows, scale: &scale }),
        ..CtcOutputs::default()
    };
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

/// Inputs and gradient whose elements lie apart, against those that lie side by side.
fn apart<E: Element, R: Real>(case: &Case) {
    let [samples, frames, classes] = case.counts;
    let strides = [frames as isize, 1, (samples * frames) as isize];
    let expected = case.run_as::<E>(&[1.0; 3], LIMIT).unwrap();
    let place = |n: usize, t: usize, k: usize| n * frames + t + k * samples * frames;
    let indices = || {
        let frame = move |n| (0..frames).map(move |t| (n, t));
        (0..samples).flat_map(frame).flat_map(|(n, t)| (0..classes).map(move |k| (n, t, k)))
    };
    let mut data = vec![E::of(0.0); case.frames.len()];
    for ((n, t, k), &x) in indices().zip(&case.frames) {
        data[place(n, t, k)] = E::of(x);
    }
    let mut grad = vec![E::of(77.0); data.len()];
    let labels = case.labels();
    let batch = CtcBatch {
        frames: FrameArray::<R>::new(View::strided(&data, 0, &case.counts, &strides).unwrap())
            .unwrap(),
        input: case.input,
        blank: case.blank,
        lengths: &case.lengths,
        labels: &labels,
    };
    let view = ViewMut::strided(&mut grad, 0, &case.counts, &strides).unwrap();
    let rows = FrameArrayMut::new(view).unwrap();
    let grad_rows = Some(GradientRows { rows: &rows, scale: &[1.0; 3] });
    let outputs = CtcOutputs { grad: grad_rows, ..CtcOutputs::default() };
    assert_eq!(ctc(&batch, &outputs, &options(LIMIT)).unwrap(), expected.loss);
    for ((n, t, k), &x) in indices().zip(&expected.grad) {
        assert_eq!(grad[place(n, t, k)].to::<f64>(), x);
    }
}

#[test]
fn elements_that_lie_apart_give_the_same_in_every_type() {
    let mut random = Random(22);
    // More classes and labels than are converted at once, and fewer.
    for (classes, len) in [(150, 80), (5, 9)] {
        let mut case = Case::random(&mut random, [3, 90, classes], len, 2.0);
        case.lengths[1] = 50;
        for input in [InputKind::Logits, InputKind::LogProbs, InputKind::LogProbsTorch] {
            case.input = input;
            apart::<f16, f32>(&case);
            apart::<bf16, f32>(&case);
            apart::<f32, f32>(&case);
            apart::<f64, f64>(&case);
        }
    }
}

#[test]
fn arrays_of_another_type_or_rank_are_refused() {
    let mut data = [0.0_f64; 12];
    let rows = |shape: &[usize]| FrameArray::<f64>::new(View::from_slice(&data, shape)).is_some();
    assert!(rows(&[2, 2, 3]));
    assert!(!rows(&[4, 3]));
    assert!(!rows(&[2, 1, 2, 3]));
    assert!(FrameArray::<f32>::new(View::from_slice(&data, &[2, 2, 3])).is_none());
    assert!(FrameArrayMut::<f64>::new(ViewMut::from_slice(&mut data, &[2, 2, 3])).is_some());
    assert!(FrameArrayMut::<f64>::new(ViewMut::from_slice(&mut data, &[12])).is_none());
    assert!(FrameArrayMut::<f32>::new(ViewMut::from_slice(&mut data, &[2, 2, 3])).is_none());
    let halves = [f16::ZERO; 12];
    assert!(FrameArray::<f32>::new(View::from_slice(&halves, &[2, 2, 3])).is_some());
    assert!(FrameArray::<f64>::new(View::from_slice(&halves, &[2, 2, 3])).is_none());
    assert!(FrameArray::<f32>::new(View::from_slice(&[1_i32; 12], &[2, 2, 3])).is_none());
}

#[test]
fn wrong_labels_and_lengths_are_named() {
    let mut random = Random(18);
    let case = Case::random(&mut random, [2, 9, 5], 3, 1.0);
    let with = |change: &dyn Fn(&mut Case)| {
        let mut case = case.clone();
        change(&mut case);
        let error = case.run_as::<f64>(&[1.0; 2], LIMIT).unwrap_err();
        (error.kind, error.index.clone(), error.value)
    };
    let label = |label: u32| {
        (Kind::Label, Some(vec![1, 2].into_boxed_slice()), Some(i128::from(label).into()))
    };
    assert_eq!(with(&|case| case.labels[1][2] = 5), label(5));
    assert_eq!(with(&|case| case.labels[1][2] = u32::MAX), label(u32::MAX));
    assert_eq!(with(&|case| case.labels[1][2] = case.blank), label(case.blank));
    let length = (Kind::Length, Some(vec![1].into_boxed_slice()), Some(10_usize.into()));
    assert_eq!(with(&|case| case.lengths[1] = 10), length);
    assert_eq!(with(&|case| case.blank = 5), (Kind::Parameter, None, None));
    assert_eq!(with(&|case| case.lengths.truncate(1)), (Kind::Shape, None, None));
    assert!(LabelSequences::new(vec![1, 2], vec![0, 2, 1]).is_none());
    assert!(LabelSequences::new(vec![1, 2], vec![0, 1]).is_none());
    assert!(LabelSequences::new(vec![1, 2], vec![]).is_none());
}
