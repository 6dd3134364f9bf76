//! The kernels without Python: `cargo bench`.
//!
//! Value and gradient of losses on dense `f32` and `f64` arrays, with the threads of the environment.

#![allow(clippy::disallowed_macros, clippy::disallowed_methods)]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rustloss::{
    ArrayView, ArrayViewMut, HingeLoss, HuberLoss, L1Loss, L2Loss, LogisticLoss, Objective,
    PoissonNLLLoss, Prediction, Result, SigmoidBinaryCrossEntropyLoss, SoftmaxCrossEntropyLoss,
};
use std::hint::black_box;

/// What the labels are.
enum Label {
    /// Ones, of the type and shape of the prediction.
    Ones(&'static str),
    /// A class for each row.
    Classes,
}

/// Numbers between -4 and 4 that repeat only after a long while.
fn numbers<T>(n: usize, from: fn(f64) -> T) -> Vec<T> {
    (0..n).map(|i| from((i * 7919 % 10_007) as f64 / 1251.0 - 4.0)).collect()
}

/// Times value and gradient for some shapes.
fn bench<T: Prediction<Value = T>>(
    c: &mut Criterion,
    from: fn(f64) -> T,
    objective: &Objective,
    label: &Label,
    shapes: &[&[usize]],
) -> Result<()> {
    let mut group = c.benchmark_group(objective.name());
    for &shape in shapes {
        let n: usize = shape.iter().product();
        let (rows, columns) = (shape[0], shape.get(1).copied().unwrap_or(1));
        let (pred, ones) = (numbers(n, from), vec![from(1.0); n]);
        let classes: Vec<u32> = (0..rows).map(|i| (i * 31 % columns) as u32).collect();
        let (mut value, mut grad) = (vec![from(0.0); rows], vec![from(0.0); n]);
        let (pred, ones) = (ArrayView::new(&pred, shape)?, ArrayView::new(&ones, shape)?);
        group.throughput(Throughput::Elements(n as u64));
        let id = format!("{}/{shape:?}", T::DTYPE.name());
        group.bench_function(BenchmarkId::from_parameter(id), |b| {
            b.iter(|| {
                let call = objective.evaluate(black_box(&pred));
                let call = match label {
                    Label::Ones(name) => call.input(name, &ones),
                    Label::Classes => call.input("label", &classes),
                };
                let value = ArrayViewMut::new(&mut value, &[rows])?;
                call.value_and_grad_into(value, ArrayViewMut::new(&mut grad, shape)?)
            });
        });
    }
    group.finish();
    Ok(())
}

fn losses(c: &mut Criterion) -> Result<()> {
    const SMALL: &[usize] = &[128, 128];
    const LARGE: &[usize] = &[1000, 1000];
    let mut both = |objective: &Objective, label: &Label, shapes: &[&[usize]]| {
        bench::<f32>(c, |x| x as f32, objective, label, shapes)?;
        bench::<f64>(c, |x| x, objective, label, shapes)
    };
    let label = Label::Ones("label");
    both(L1Loss::new()?.objective(), &label, &[&[64], SMALL, LARGE])?;
    both(L2Loss::new()?.objective(), &label, &[SMALL, LARGE])?;
    both(HuberLoss::new()?.objective(), &label, &[LARGE])?;
    both(HingeLoss::new()?.objective(), &label, &[LARGE])?;
    both(LogisticLoss::new()?.objective(), &label, &[LARGE])?;
    both(SigmoidBinaryCrossEntropyLoss::new()?.objective(), &label, &[SMALL, LARGE])?;
    both(PoissonNLLLoss::new()?.objective(), &Label::Ones("target"), &[LARGE])?;
    let shapes: [&[usize]; 3] = [&[128, 10], &[1024, 1000], &[256, 32000]];
    both(SoftmaxCrossEntropyLoss::new()?.objective(), &Label::Classes, &shapes)
}

fn all(c: &mut Criterion) {
    losses(c).expect("calls that are right");
}

criterion_group!(benches, all);
criterion_main!(benches);
