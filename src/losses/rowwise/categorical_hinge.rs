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
use crate::buffer::Buffer;
use crate::drive::columns::{ColumnRows, Columns, Named};
use crate::drive::row_kernel::{Row, RowKernel, RowOutputs, Scratch};
use crate::error::Result;
use crate::math::Real;
use crate::memory;
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

/// Elements that are searched at once.
const SEARCHED: usize = 64;

impl HingeRows<'_> {
    /// The first of the best classes but the label; a NaN is better than all.
    #[inline(always)]
    fn best<T: Real>(x: &[T], label: usize) -> Option<usize> {
        let (before, after) =
            (&x[..label.min(x.len())], x.get(label.saturating_add(1)..).unwrap_or_default());
        let ends = [T::INFINITY, -T::INFINITY].map(T::key);
        let [mut least, mut most] = ends;
        for x in [before, after] {
            for x in x {
                least = least.min(x.key());
                most = most.max(x.key());
            }
        }
        if least < ends[1] || most > ends[0] {
            let is_nan = |&class: &usize| class != label && x[class].is_nan();
            return (0..x.len()).rfind(is_nan);
        }
        // Both zeros are equal, whatever the order of keys.
        let most = T::from_key(most);
        let is_most = |x: &T| *x == most;
        for (x, first) in [(before, 0), (after, label.saturating_add(1))] {
            for (block, x) in x.chunks(SEARCHED).enumerate() {
                if x.iter().fold(false, |any, x| any | is_most(x)) {
                    return Some(first + block * SEARCHED + x.iter().position(is_most)?);
                }
            }
        }
        None
    }
}

/// What columns need of each row: the best of the other classes and where it stands, and the slopes.
#[derive(std::default::Default)]
struct HingeSideBySide<T> {
    labelled: Named,
    leaders: Named,
    at: Vec<u32>,
    best: Buffer<T>,
    own: Buffer<T>,
    slopes: Buffer<T>,
}

impl<T: Real> Scratch for HingeSideBySide<T> {
    fn fit(&mut self, _: usize) -> Result<()> {
        Ok(())
    }
}

/// Where no other class stands.
const NOWHERE: u32 = u32::MAX;

impl<T: Real> RowKernel<T, 1, 0> for HingeRows<'_> {
    const COST: f64 = 0.5;
    const BY_COLUMNS: bool = true;
    type Scratch = HingeSideBySide<T>;

    #[inline(always)]
    fn skips(&self, row: usize) -> bool {
        self.labels[row] == IGNORED
    }

    #[inline(always)]
    fn row<S: Isa>(
        &self,
        Row { index, vectors: [x], .. }: Row<'_, T, 1, 0>,
        RowOutputs { grads: [grad], hess, .. }: RowOutputs<'_, T, 1, 0>,
        _: &mut HingeSideBySide<T>,
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

    #[inline(always)]
    fn columns<S: Isa>(
        &self,
        rows: ColumnRows<'_, T>,
        columns: &mut Columns<'_, '_, T>,
        scratch: &mut HingeSideBySide<T>,
    ) -> Result<bool> {
        let HingeSideBySide { labelled, leaders, at, best, own, slopes } = scratch;
        let (count, elements) = (columns.rows(), columns.elements());
        let labels = &self.labels[rows.first..][..count];
        labelled.sort(elements, labels.iter().copied().map(Some))?;
        at.clear();
        memory::grow(at, count, NOWHERE)?;
        let (best, own, slopes) = (best.sized(count)?, own.sized(count)?, slopes.sized(count)?);
        let mut reader = columns.read();
        for (c, class) in (0..elements).zip(0_u32..) {
            let [x] = reader.column(c)?;
            for (((best, at), &score), &label) in best.iter_mut().zip(&mut *at).zip(x).zip(labels) {
                let ahead = *at == NOWHERE || score > *best || score.is_nan();
                let leads = ahead && label != class;
                (*best, *at) = (if leads { score } else { *best }, if leads { class } else { *at });
            }
            for r in labelled.of(c) {
                own[r] = x[r];
            }
        }
        for (r, slope) in slopes.iter_mut().enumerate() {
            let ahead = self.margin + (best[r].to_f64() - own[r].to_f64());
            let gap = if at[r] == NOWHERE { 0.0 } else { ahead };
            *slope = T::from_f64(rows.scale[r].where_positive(gap));
            rows.value[r] = T::from_f64(gap.where_positive(gap));
        }
        if !columns.derives() {
            return Ok(true);
        }
        leaders.sort(elements, at.iter().map(|&at| (at != NOWHERE).then_some(at)))?;
        let mut writer = columns.write::<1>();
        for c in 0..elements {
            let (_, [Some(grad)]) = writer.column(c)? else { return Ok(true) };
            grad.fill(T::ZERO);
            for r in leaders.of(c) {
                grad[r] = slopes[r];
            }
            for r in labelled.of(c).filter(|&r| at[r] != NOWHERE) {
                grad[r] = -slopes[r];
            }
            writer.finish(c);
        }
        Ok(true)
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
