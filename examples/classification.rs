//! A linear classifier of points around three centers: `cargo run --example classification`.

#![allow(clippy::disallowed_macros, clippy::disallowed_methods)]

use rustloss::{Array, Reduction, Result, SoftmaxCrossEntropyLoss};

const CENTERS: [[f32; 2]; 3] = [[0.0, 2.0], [-2.0, -1.0], [2.0, -1.0]];
const SAMPLES: usize = 300;

/// Points around the centers in turn, and the numbers of their centers.
fn points() -> (Vec<[f32; 2]>, Vec<u8>) {
    let label = |i: usize| (i % CENTERS.len()) as u8;
    let point = |i: usize| {
        // An irrational rotation spreads the points evenly over a disc.
        let (angle, radius) = (i as f32 * 2.4, 1.4 * (i as f32 / SAMPLES as f32).sqrt());
        let [x, y] = CENTERS[i % CENTERS.len()];
        [x + radius * angle.cos(), y + radius * angle.sin()]
    };
    ((0..SAMPLES).map(point).collect(), (0..SAMPLES).map(label).collect())
}

/// The mean losses before each step, and the share of the points that are classified right in the end.
fn train(steps: usize) -> Result<(Vec<f32>, f32)> {
    let (points, label) = points();
    let loss = SoftmaxCrossEntropyLoss::builder()
        .reduction(Reduction::Mean)
        .label_smoothing(0.05)
        .build()?;
    // For each class a factor of each coordinate, and a bias.
    let mut weights = [[0.0_f32; 3]; CENTERS.len()];
    let score = |weights: &[[f32; 3]; 3], [x, y]: [f32; 2]| {
        weights.map(|[by_x, by_y, bias]| by_x * x + by_y * y + bias)
    };
    let mut losses = Vec::new();
    for _ in 0..steps {
        let logits = points.iter().flat_map(|&point| score(&weights, point)).collect();
        let logits = Array::new(logits, &[SAMPLES, CENTERS.len()])?;
        let (value, grad) = loss.value_and_grad(&logits, &label)?;
        losses.extend(value.item());
        for (&[x, y], grad) in points.iter().zip(grad.data().chunks(CENTERS.len())) {
            for (weights, grad) in weights.iter_mut().zip(grad) {
                for (weight, x) in weights.iter_mut().zip([x, y, 1.0]) {
                    *weight -= grad * x;
                }
            }
        }
    }
    let is_right = |(&point, &label): (&[f32; 2], &u8)| {
        let scores = score(&weights, point);
        scores.iter().all(|&other| other <= scores[usize::from(label)])
    };
    let right = points.iter().zip(&label).filter(|&pair| is_right(pair)).count();
    Ok((losses, right as f32 / SAMPLES as f32))
}

fn main() -> Result<()> {
    let (losses, accuracy) = train(50)?;
    for (step, loss) in losses.iter().enumerate().step_by(10) {
        println!("step {step:2}: mean loss {loss:.4}");
    }
    println!("{:.1} % of the points are classified right", 100.0 * accuracy);
    Ok(())
}

#[test]
fn training_lowers_the_loss() {
    let (losses, accuracy) = train(50).unwrap();
    assert!((losses[0] - 3.0_f32.ln()).abs() < 1e-6, "{}", losses[0]);
    assert!(losses.windows(2).all(|pair| pair[1] < pair[0]), "{losses:?}");
    assert!(accuracy > 0.95, "{accuracy}");
}
