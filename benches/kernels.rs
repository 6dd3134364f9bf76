//! The kernels without Python: `cargo bench`.
//!
//! Value and gradient of losses of the registry on dense `f32` and `f64` arrays, with the threads of the environment.

#![allow(clippy::disallowed_macros, clippy::disallowed_methods)]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rustloss::array::{View, ViewMut};
use rustloss::drive::Reduction;
use rustloss::losses::registry;
use rustloss::math::Real;
use rustloss::registry::{Arguments, MAX_INPUTS, Objective, Options, Params, Results};
use rustloss::simd;
use std::hint::black_box;

/// Losses that take a prediction and a label, with their shapes.
const CASES: &[(&str, &[usize])] = &[
    ("L1Loss", &[64]),
    ("L1Loss", &[128, 128]),
    ("L1Loss", &[1000, 1000]),
    ("L2Loss", &[128, 128]),
    ("L2Loss", &[1000, 1000]),
    ("HuberLoss", &[1000, 1000]),
    ("HingeLoss", &[1000, 1000]),
    ("LogisticLoss", &[1000, 1000]),
    ("SigmoidBinaryCrossEntropyLoss", &[128, 128]),
    ("SigmoidBinaryCrossEntropyLoss", &[1000, 1000]),
    ("PoissonNLLLoss", &[1000, 1000]),
    ("SoftmaxCrossEntropyLoss", &[128, 10]),
    ("SoftmaxCrossEntropyLoss", &[1024, 1000]),
    ("SoftmaxCrossEntropyLoss", &[256, 32000]),
];

/// Numbers between -4 and 4 that repeat only after a long while.
fn numbers<T: Real>(n: usize) -> Vec<T> {
    (0..n).map(|i| T::from_f64((i * 7919 % 10_007) as f64 / 1251.0 - 4.0)).collect()
}

fn bench<T: Real>(c: &mut Criterion) {
    let level = simd::level().expect("RUSTLOSS_ISA names a level of this CPU");
    for &(name, shape) in CASES {
        let spec = registry().find(|spec| spec.name == name).expect("a loss of the registry");
        let params = Params::new(name, spec.params, []).expect("defaults are acceptable");
        let options = Options {
            weight: 1.0,
            batch_axis: 0,
            reduction: Reduction::Sample,
            empty: f64::NAN,
            allow_out_of_range: false,
        };
        let loss = Objective::new(spec, &params, options).expect("defaults are acceptable");
        let n: usize = shape.iter().product();
        let (rows, classes) = (shape[0], shape.get(1).copied().unwrap_or(1));
        let by_class = name == "SoftmaxCrossEntropyLoss";
        let (pred, label) = (numbers::<T>(n), vec![T::ONE; n]);
        let classes: Vec<u32> = (0..rows).map(|i| (i * 31 % classes) as u32).collect();
        let label = if by_class {
            View::from_slice(&classes, &[rows])
        } else {
            View::from_slice(&label, shape)
        };
        let (mut value, mut grad) = (vec![T::ZERO; rows], vec![T::ZERO; n]);
        let mut group = c.benchmark_group(name);
        group.throughput(Throughput::Elements(n as u64));
        let id = format!("{}/{shape:?}", T::DTYPE.name());
        group.bench_function(BenchmarkId::from_parameter(id), |b| {
            b.iter(|| {
                let mut inputs = [const { None }; MAX_INPUTS];
                inputs[0] = Some(View::from_slice(&pred, shape));
                inputs[1] = Some(label.clone());
                let plan = loss.plan(Arguments {
                    level,
                    dtype: T::DTYPE,
                    inputs,
                    listed: false,
                    grad_output: None,
                    denominator: None,
                    in_place: false,
                });
                let plan = plan.expect("a valid call");
                let mut grads = [const { None }; MAX_INPUTS];
                grads[0] = Some(ViewMut::from_slice(&mut grad, shape));
                let value = Some(ViewMut::from_slice(&mut value, &[rows]));
                plan.run(black_box(Results { value, grads, hess: None }))
                    .expect("it fits in memory");
            });
        });
        group.finish();
    }
}

fn all(c: &mut Criterion) {
    bench::<f32>(c);
    bench::<f64>(c);
}

criterion_group!(benches, all);
criterion_main!(benches);
