//! Training losses: value, gradient and, where smooth, the second derivative.
//!
//! Each loss is a type. `new` makes it with its defaults, `builder` with parameters and options of its own; `value`, `grad`
//! and `value_and_grad` take the arrays that every call gives, and [`call`](HuberLoss::call) begins a call with more to it:
//! weights, optional inputs, other results, memory of the caller.
//!
//! Arrays are slices, vectors, [`Array`]s, or strided [`ArrayView`]s of slices; labels and weights may be of any element
//! type. Results have the type of the prediction. They are the same bits for any number of threads and any split of the
//! batch. Nothing here panics because of what an array holds: what is wrong with a call is an [`Error`] that names the
//! argument, what was expected and what came.
//!
//! # Elementwise losses
//!
//! ```
//! use rustloss::{HuberLoss, Reduction};
//!
//! let huber = HuberLoss::builder().rho(1.0).reduction(Reduction::None).build()?;
//! let (value, grad) = huber.value_and_grad(&[0.5, 3.0], &[0.0, 0.0])?;
//! assert_eq!(value.data(), [0.125, 2.5]);
//! assert_eq!(grad.data(), [0.5, 1.0]);
//!
//! // A weight of 0 takes a sample out, whatever it holds.
//! let (pred, label) = ([0.5, f64::NAN], [0.0, 0.0]);
//! let value = huber.call(&pred, &label).sample_weight(&[2.0, 0.0]).value()?;
//! assert_eq!(value.data(), [0.25, 0.0]);
//! # Ok::<(), rustloss::Error>(())
//! ```
//!
//! Second derivatives, as boosted trees want them, and memory of the caller:
//!
//! ```
//! use rustloss::{ArrayViewMut, LogisticLoss, Reduction};
//!
//! let loss = LogisticLoss::builder().label_format("binary").reduction(Reduction::Sum).build()?;
//! let (pred, label) = ([0.0_f32, 0.0], [true, false].map(u8::from));
//! // Gradient and second derivative of each sample side by side.
//! let mut both = [0.0_f32; 4];
//! let (head, tail) = both.split_at_mut(2);
//! let [grad, hess] = [ArrayViewMut::new(head, &[2])?, ArrayViewMut::new(tail, &[2])?];
//! loss.call(&pred, &label).grad_hess_into(grad, hess)?;
//! assert_eq!(both, [-0.5, 0.5, 0.25, 0.25]);
//! # Ok::<(), rustloss::Error>(())
//! ```
//!
//! # Rowwise losses
//!
//! ```
//! use rustloss::{ArrayView, Reduction, SoftmaxCrossEntropyLoss, TripletLoss};
//!
//! let loss = SoftmaxCrossEntropyLoss::builder().ignore_index(-100).build()?;
//! let logits = [[0.0_f32, 0.0], [5.0, 7.0]];
//! let (value, grad) = loss.value_and_grad(&logits, &[1_i64, -100])?;
//! assert_eq!(value.data(), [2.0_f32.ln(), 0.0]);
//! assert_eq!(grad.shape(), [2, 2]);
//! assert_eq!(grad.data(), [0.5, -0.5, 0.0, 0.0]);
//!
//! // Classes along the first axis: a transposed view of the same numbers.
//! let flat = [0.0_f32, 5.0, 0.0, 7.0];
//! let transposed = ArrayView::strided(&flat, 0, &[2, 2], &[1, 2])?;
//! assert_eq!(loss.value(&transposed, &[1_i64, -100])?, value);
//!
//! // Gradients with respect to several inputs.
//! let triplet = TripletLoss::builder().reduction(Reduction::Sum).build()?;
//! let call = triplet.call(&[[0.0, 0.0]], &[[1.0, 0.0]], &[[0.0, 1.0]]);
//! let (value, grads) = call.value_and_grads(&["pred", "positive", "negative"])?;
//! assert_eq!(value.item(), Some(1.0));
//! assert_eq!(grads[1].data(), [2.0, 0.0]);
//! # Ok::<(), rustloss::Error>(())
//! ```
//!
//! # Pairwise losses
//!
//! ```
//! use rustloss::SDMLLoss;
//!
//! let loss = SDMLLoss::builder().smoothing_parameter(0.1).build()?;
//! let far_apart = [[0.0, 0.0], [9.0, 9.0]];
//! let (matched, swapped) = (far_apart, [far_apart[1], far_apart[0]]);
//! let [right, wrong] = [matched, swapped].map(|other| loss.value(&far_apart, &other));
//! assert!(right?.data()[0] < wrong?.data()[0]);
//! # Ok::<(), rustloss::Error>(())
//! ```
//!
//! # Sequence losses
//!
//! ```
//! use rustloss::CTCLoss;
//!
//! // Three frames of logits for two letters and the blank, which comes last.
//! let loss = CTCLoss::builder().layout("TC").build()?;
//! let logits = [[9.0_f32, 0.0, 0.0], [0.0, 0.0, 9.0], [0.0, 9.0, 0.0]];
//! let label = [0_i64, 1];
//! let (value, grad) = loss.value_and_grad(&logits, &label)?;
//! assert!(value.item() < Some(0.01));
//! assert_eq!(grad.shape(), [3, 3]);
//! let path = loss.call(&logits, &label).best_path()?;
//! assert_eq!(path.label_index.data(), [0, -1, 1]);
//! let posteriors = loss.call(&logits, &label).posteriors()?;
//! assert_eq!(posteriors.shape(), [3, 2]);
//! # Ok::<(), rustloss::Error>(())
//! ```
//!
//! # Threads
//!
//! Calls that are worth it run on several threads: [`num_threads`], [`set_num_threads`] and [`with_num_threads`] say on how
//! many, and the environment variable `RUSTLOSS_NUM_THREADS`. [`interruptible`] has a long call told to stop.

#![cfg_attr(test, allow(clippy::disallowed_macros, clippy::disallowed_methods))]

mod array;
mod buffer;
mod drive;
mod error;
mod front;
mod losses;
mod math;
mod memory;
mod num;
#[cfg(feature = "python")]
#[allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    reason = "lists of arguments and parameters, as long as a signature"
)]
mod python;
mod registry;
mod scratch;
mod simd;
mod softmax;
mod sum;
mod threads;

pub use drive::Reduction;
pub use error::{Error, Kind, Mistake, Number, Result};
pub use front::{
    Array, ArrayView, ArrayViewMut, AsArray, BestPath, Builder, Empty, Evaluation, Prediction,
    Registered, ValueAndGrads,
};
pub use half::{bf16, f16};
pub use losses::{
    elementwise::typed::*, pairwise::typed::*, rowwise::typed::*, sequence::typed::*,
};
pub use num::{Boolean, DType, Element};
pub use registry::{Objective, Value};
pub use scratch::release_memory;
pub use threads::{
    Poll, environment_warnings, interruptible, max_num_threads, num_threads, set_num_threads,
    with_num_threads,
};

// The tests of CTC's own interfaces, which name the crate as users do.
#[cfg(test)]
use ctc::case;
#[cfg(test)]
#[path = "../tests/ctc/main.rs"]
mod ctc;
#[cfg(test)]
extern crate self as rustloss;
