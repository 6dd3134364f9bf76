//! Losses of one class on the softmax of a row of logits, each a head of a few lines.
//!
//! With t the label's class, p the softmax and Z = log(sum exp(x)), every one of them has a gradient `a p + c w` but for
//! the label, where w are weights of the classes, and a second derivative `b p (1 - p) + d p^2` but for the label. A head
//! says what a, b, c, d and the label's own derivatives are, from a few numbers of the row; [`super::SparseRows`] has the
//! forms, which are compiled once for all heads.

/// What a head sees of a row.
#[derive(Clone, Copy, Default)]
pub struct Scalars {
    /// The label.
    pub class: usize,
    /// -log p of the label, never negative.
    pub nll: f64,
    /// p of the label.
    pub p: f64,
    /// 1 - p of the label, without cancellation.
    pub complement: f64,
    /// log(sum exp(x)) less the largest logit.
    pub log_sum: f64,
    /// The largest logit.
    pub max: f64,
    /// The sum over the classes of w (largest logit - x), for heads that spread.
    pub spread: f64,
}

/// What a head makes of it.
#[derive(Clone, Copy, Default)]
pub struct Slopes {
    /// The loss.
    pub value: f64,
    /// The part of a that is the sum of the target.
    pub total: f64,
    /// The rest of a, which pulls at the sum of all exponentials.
    pub pull: f64,
    /// c.
    pub by_weight: f64,
    /// The derivative at the label.
    pub at_label: f64,
    /// b.
    pub curvature: f64,
    /// d.
    pub square: f64,
    /// The second derivative at the label, if it is another.
    pub hess_at_label: Option<f64>,
}

/// A loss of one class.
pub trait Head: Sync {
    /// Whether [`Scalars::log_sum`] is looked at.
    fn needs_log_sum(&self) -> bool {
        false
    }

    /// Whether classes other than the label have a share in the target.
    fn spreads(&self) -> bool {
        false
    }

    /// The weights of the classes, for heads that spread; all 1 if there are none.
    fn weights(&self) -> Option<&[f64]> {
        None
    }

    /// Loss and derivatives from the numbers of a row, in f64.
    fn slopes(&self, row: &Scalars) -> Slopes;

    /// The second derivative at the class of the largest logit, where that is not the label and takes more care than the
    /// others: from p of the label, p and 1 - p of that class, and the sum of p of all classes but both. Only heads with
    /// [`Slopes::hess_at_label`] are asked.
    fn hess_at_max(&self, _p: f64, _largest: [f64; 2], _rest: &dyn Fn() -> f64) -> Option<f64> {
        None
    }

    /// [`Head::slopes`] of several rows.
    fn slopes_of(&self, rows: &[Scalars], slopes: &mut [Slopes]) {
        for (slopes, row) in slopes.iter_mut().zip(rows) {
            *slopes = self.slopes(row);
        }
    }
}

impl Slopes {
    /// What p of every class but the label is multiplied by.
    #[inline(always)]
    pub fn by_p(&self) -> f64 {
        self.total + self.pull
    }
}
