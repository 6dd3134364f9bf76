//! A straight line through points, some of which are far off: `cargo run --example regression`.
//!
//! The squared error follows the outliers, the Huber loss the other points.

#![allow(clippy::disallowed_macros, clippy::disallowed_methods)]

use rustloss::{Builder, HuberLoss, L2Loss, Reduction, Result};

const SLOPE: f64 = 2.0;
const INTERCEPT: f64 = -1.0;

/// The Huber loss bends ten times as much as the squared error where it is a square.
const LEARNING_RATE: f64 = 0.1;

/// Points from 0 to 1 of a line, every eighth of them 20 too high.
fn points() -> (Vec<f64>, Vec<f64>) {
    let x: Vec<f64> = (0..64).map(|i| f64::from(i) / 63.0).collect();
    let outlier = |i: usize| if i % 8 == 7 { 20.0 } else { 0.0 };
    let y = x.iter().enumerate().map(|(i, x)| SLOPE * x + INTERCEPT + outlier(i)).collect();
    (x, y)
}

/// Slope and intercept by gradient descent, given the gradient of the mean loss.
fn fit(gradient: impl Fn(&[f64], &[f64]) -> Result<Vec<f64>>) -> Result<[f64; 2]> {
    let (x, y) = points();
    let [mut slope, mut intercept] = [0.0; 2];
    for _ in 0..4000 {
        let pred: Vec<f64> = x.iter().map(|x| slope * x + intercept).collect();
        let grad = gradient(&pred, &y)?;
        slope -= LEARNING_RATE * grad.iter().zip(&x).map(|(g, x)| g * x).sum::<f64>();
        intercept -= LEARNING_RATE * grad.iter().sum::<f64>();
    }
    Ok([slope, intercept])
}

/// What each loss makes of the points: of the squared error, and of the Huber loss.
fn lines() -> Result<[[f64; 2]; 2]> {
    fn mean<L: rustloss::Registered>(builder: Builder<L>) -> Result<L> {
        builder.reduction(Reduction::Mean).build()
    }
    let l2 = mean(L2Loss::builder())?;
    let huber = mean(HuberLoss::builder().rho(0.1))?;
    Ok([
        fit(|pred, label| Ok(l2.grad(pred, label)?.into_data()))?,
        fit(|pred, label| Ok(huber.grad(pred, label)?.into_data()))?,
    ])
}

fn main() -> Result<()> {
    println!("{:12} {SLOPE:7.3} x {INTERCEPT:+.3}", "true line");
    for (name, [slope, intercept]) in ["L2Loss", "HuberLoss"].into_iter().zip(lines()?) {
        println!("{name:12} {slope:7.3} x {intercept:+.3}");
    }
    Ok(())
}

#[test]
fn the_huber_loss_is_nearer_to_the_line() {
    let [l2, huber] = lines().unwrap();
    let off = |[slope, intercept]: [f64; 2]| (slope - SLOPE).abs() + (intercept - INTERCEPT).abs();
    assert!(off(huber) < 0.2 && off(l2) > 1.0, "L2 {l2:?}, Huber {huber:?}");
}
