//! Categorical hinge: the label's class is to be ahead of the best other one by a margin.
//!
//! With x the scores and t the label, `loss = max(0, margin + max_(j != t) x_j - x_t)`. Where it is positive the gradient
//! is 1 at the first of the best other classes and -1 at the label; at the margin and beyond it is 0. The second derivative
//! is 0. A row of one class has no other: its loss is 0.
//!
//! Source: Crammer and Singer, "On the Algorithmic Implementation of Multiclass Kernel-based Vector Machines" (2001); in
//! Keras `CategoricalHinge`, in optax `multiclass_hinge_loss`.

use super::AXIS;
use super::class_labels::{CLASS_LABEL, IGNORE_INDEX, RAISE_OR_CLIP, Sparse, SparseLoss};
use crate::drive::row_kernel::{Row, RowKernel, RowOutputs};
use crate::math::Real;
use crate::num::Float;
use crate::registry::{
    Bound, Domain, Family, Hessian, SAMPLE_WEIGHT, Spec, Unreduced, float, pred,
};
use crate::simd::Isa;
use crate::softmax::IGNORED;

/// The row of the registry.
pub const SPEC: Spec = Spec {
    name: "CategoricalHingeLoss",
    family: Family::Rowwise,
    inputs: &[pred(Domain::Real), CLASS_LABEL, SAMPLE_WEIGHT],
    params: &[float("margin", 1.0, Bound::Finite), AXIS, IGNORE_INDEX, RAISE_OR_CLIP],
    unreduced: Unreduced::Row,
    hess: true,
    kinks: "margin + max(others) == pred[label], and where two others are the best",
    build: |p| {
        let loss = CategoricalHinge { margin: p.float("margin") };
        Ok(Box::new(SparseLoss::new(loss, p, None)?))
    },
};

crate::front::typed! {
    /// Categorical hinge: the label's class is to be ahead of the best other one by a margin.
    CategoricalHingeLoss(pred, label) {
        margin: f64,
        axis: i64,
        ignore_index: i64,
        out_of_range: &str,
    }
}

/// The loss with its parameters.
#[derive(Clone, Copy)]
struct CategoricalHinge {
    margin: f64,
}

impl Sparse for CategoricalHinge {
    type Kernel<'k> = HingeRows<'k>;
    fn kernel<'k>(&'k self, labels: &'k [u32]) -> HingeRows<'k> {
        HingeRows { margin: self.margin, labels }
    }
    fn hessian(&self) -> Hessian {
        Hessian::Zero
    }
}

struct HingeRows<'a> {
    margin: f64,
    labels: &'a [u32],
}

impl HingeRows<'_> {
    /// The first of the best classes but the label; a NaN is better than all.
    fn best<T: Real>(x: &[T], label: usize) -> Option<usize> {
        let mut best = None;
        for (class, score) in x.iter().enumerate() {
            let ahead = best.is_none_or(|best: usize| *score > x[best] || score.is_nan());
            if class != label && ahead {
                best = Some(class);
            }
        }
        best
    }
}

impl<T: Real> RowKernel<T, 1, 0> for HingeRows<'_> {
    const COST: f64 = 0.5;
    type Scratch = ();

    #[inline(always)]
    fn skips(&self, row: usize) -> bool {
        self.labels[row] == IGNORED
    }

    #[inline(always)]
    fn row<S: Isa>(
        &self,
        Row { index, vectors: [x], .. }: Row<'_, T, 1, 0>,
        RowOutputs { grads: [grad], hess, .. }: RowOutputs<'_, T, 1, 0>,
        (): &mut (),
        scale: f64,
    ) -> T {
        let label = self.labels[index] as usize;
        let best = Self::best(x, label);
        let gap = best.map_or(0.0, |best| self.margin + (x[best].to_f64() - x[label].to_f64()));
        if let Some(hess) = hess {
            hess.fill(T::ZERO);
        }
        if let Some(grad) = grad {
            grad.fill(T::ZERO);
            if let Some(best) = best {
                let slope = T::from_f64(scale.where_positive(gap));
                (grad[best], grad[label]) = (slope, -slope);
            }
        }
        T::from_f64(gap.where_positive(gap))
    }

    #[expect(clippy::disallowed_methods, reason = "a few numbers")]
    fn kinks(&self, Row { index, vectors: [x], .. }: Row<'_, f64, 1, 0>) -> Vec<f64> {
        let label = self.labels[index] as usize;
        let Some(best) = Self::best(x, label).filter(|_| label < x.len()) else {
            return Vec::new();
        };
        let others: Vec<_> = (0..x.len()).filter(|class| *class != label).collect();
        let ties = others.iter().flat_map(|&i| others.iter().map(move |&j| (i, j)));
        let ties = ties.filter(|(i, j)| i < j).map(|(i, j)| x[i] - x[j]);
        std::iter::once(self.margin + x[best] - x[label]).chain(ties).collect()
    }
}
