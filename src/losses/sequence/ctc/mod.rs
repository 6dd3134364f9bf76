//! Connectionist temporal classification: minus the logarithm of the probability of a label sequence.
//!
//! ```text
//! loss = -log sum over paths pi of prod over t of p(t, pi(t))
//! d loss / d logit(t, k) = p(t, k) - occupancy(t, k)
//! ```
//!
//! where a path gives each frame a label or the blank, and becomes the label sequence when repetitions are merged and
//! blanks removed; the occupancy is the probability, given the label sequence, that the path is at class k at frame t.
//! A. Graves et al., "Connectionist temporal classification", ICML 2006.
//!
//! # A lattice by hand
//!
//! There are 4 frames and the labels a and b. The states are the labels with a blank before, between and behind them:
//! blank 0, a, blank 1, b, blank 2. A path starts at blank 0 or at a, ends at b or at blank 2, and comes to
//!
//! ```text
//! blank 0  from blank 0                      (stay)
//! a        from a, from blank 0              (stay, advance)
//! blank 1  from blank 1, from a              (stay, advance)
//! b        from b, from blank 1, from a      (stay, advance, skip blank 1: not allowed if both labels were a)
//! blank 2  from blank 2, from b              (stay, advance)
//! ```
//!
//! In 4 frames these are 15 paths. Say every frame has p(blank) = 1/2 and p(a) = p(b) = 1/4. To keep the numbers whole,
//! let the emissions be 2, 1 and 1 and the likelihood be divided by 4 for each frame. (The library divides by the
//! largest probability of the frame, so that its emissions are 1, 1/2 and 1/2. Minus the logarithm of this probability
//! is the *base* of the frame.) The *forward sum* of a state is the sum of the forward sums of its predecessors at the
//! frame before, times the emission. The *backward sum* is the sum over its successors at the frame after, of their
//! backward sums times their emissions. A state is *in reach* if both are above 0, and all work is done on the band of
//! these states:
//!
//! ```text
//!            forward sums             backward sums            products
//! frame      0    1  |  2    3        0    1  |  2    3        0    1  |  2    3
//! blank 0    2    4  |  .    .        8    1  |  .    .       16    4  |  .    .
//! a          1    3  |  7    .       23    6  |  1    .       23   18  |  7    .
//! blank 1    .    2  | 10    .        .    5  |  1    .        .   10  | 10    .
//! b          .    1  |  6   23        .    7  |  3    1        .    7  | 18   23
//! blank 2    .    .  |  2   16        .    .  |  2    1        .    .  |  4   16
//!                                                       sums  39   39  | 39   39
//! ```
//!
//! For example b at frame 2, forward: (1 of b + 2 of blank 1 + 3 of a) times 1 = 6; backward: 1 of b times 1 + 1 of
//! blank 2 times 2 = 3. The products of each frame add up to the same likelihood, 39 / 4^4, and the loss is
//! -log(39 / 256) = 1.88.
//!
//! The *midpoint* is the bar. The forward direction stores its sums up to the bar, and the backward direction stores
//! its own, emissions included. One more step of the backward direction over the bar gives its sums at frame 1, and
//! their products with the stored ones the likelihood. Then each direction passes back through the rows that the
//! opposite one has stored, and multiplies: a product divided by the likelihood is the *occupancy* of the state, the
//! probability that the path is there. At frame 3 it is 23/39 for b and 16/39 for blank 2, and so the gradient by the
//! logits of that frame, p - occupancy, is 1/2 - 16/39 for the blank, 1/4 for a and 1/4 - 23/39 for b.
//!
//! # Files
//!
//! | file | what it does |
//! |---|---|
//! | `labels`, `arguments` | label sequences and lengths as a call gives them, checked |
//! | `target`, `state_rows` | the states of a label sequence, which of them are in reach, how they lie in memory |
//! | `transitions`, `step_buffers` | the weights of the transitions, steps along them |
//! | `block_float`, `extended_float`, `fixed_point` | sums over paths: fast, robust, exact |
//! | `far_logits` | which of the three arithmetics a sample needs |
//! | `viterbi` | the best path |
//! | `request`, `compute`, `scratch` | a batch: wanted results, schedule and steps, memory |
//! | `gradient_sink` | gradient and posteriors from occupancies |
//! | `loss` | the loss of the registry |

#[cfg(test)]
mod agreement;
mod arguments;
mod block_float;
mod compute;
mod extended_float;
mod far_logits;
mod fixed_number;
mod fixed_point;
mod gradient_sink;
mod labels;
mod loss;
mod request;
mod scratch;
mod state_rows;
mod step_buffers;
mod target;
mod transitions;
mod viterbi;

#[cfg(test)]
pub use compute::ctc;
#[cfg(test)]
pub use labels::LabelSequences;
#[cfg(test)]
pub use request::{
    CtcBatch, CtcOptions, CtcOutputs, GradientRows, NO_STATE, PathFrame, PosteriorRows,
};

use super::frames;
use crate::registry::{
    Accepts, Default, Domain, Family, Gradient, SAMPLE_WEIGHT, ShapeRule, Spec, Unreduced, input,
    optional, param, pred,
};

/// The row of the registry.
pub const SPEC: Spec = Spec {
    name: "CTCLoss",
    family: Family::Sequence,
    inputs: &[
        pred(Domain::Real),
        input("label", Domain::Tokens, Gradient::Never).shaped(ShapeRule::Own),
        optional("pred_lengths", Domain::Lengths, Gradient::Never).shaped(ShapeRule::Own),
        optional("label_lengths", Domain::Lengths, Gradient::Never).shaped(ShapeRule::Own),
        SAMPLE_WEIGHT,
        optional("label_offsets", Domain::Offsets, Gradient::Never).shaped(ShapeRule::Own),
    ],
    params: &[
        param("layout", Default::Text("NTC"), Accepts::Choice(&["NTC", "TNC", "TC"])),
        param("label_layout", Default::Text("NT"), Accepts::Choice(&["NT", "TN"])),
        param("blank", Default::Text("last"), Accepts::IndexOr(&["last", "first"])),
        param(
            "input",
            Default::Text("logits"),
            Accepts::Choice(&["logits", "log_probs", "log_probs_torch"]),
        ),
        param("infeasible", Default::Text("inf"), Accepts::Choice(&["inf", "zero", "raise"])),
        param("memory_limit", Default::Int(1 << 28), Accepts::Int(1)),
    ],
    unreduced: Unreduced::Sample,
    hess: false,
    kinks: "",
    build: |p| Ok(Box::new(loss::CtcLoss::new(p))),
};

crate::front::typed! {
    /// Connectionist temporal classification. Optional inputs: `pred_lengths`, `label_lengths`, `label_offsets`.
    CTCLoss(pred, label) {
        layout: &str,
        label_layout: &str,
        blank: impl Into<crate::registry::Value>,
        input: &str,
        infeasible: &str,
        memory_limit: i64,
    }
}
