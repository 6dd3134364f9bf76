//! Multi-label margin: every class of the label is to be ahead of every class that is not.
//!
//! With the scores x, the classes t of the label and C classes in all, `loss = 1 / C sum_t sum_i max(0, 1 + x_i - x_t)`, i over
//! the classes that are not of the label. The gradient with respect to `x_i` is the number of its positive terms over C,
//! with respect to `x_t` the negative of that; a term at 0 has slope 0. The second derivative is 0.
//!
//! A label is a row as long as the scores': the indices of its classes, up to the first -1; what stands behind that is not
//! read. A class that stands there twice counts twice. A label without classes has the loss 0.
//!
//! Source: Crammer and Singer, "A Family of Additive Online Algorithms for Category Ranking" (2003), its sum of all pairs; in
//! PyTorch `MultiLabelMarginLoss`.

use super::AXIS;
use super::class_labels::class_axes;
use super::plan::plan_weighted;
use crate::drive::Axes;
use crate::drive::row_kernel::{Row, RowKernel, RowOutputs, Vectors};
use crate::drive::weight::Weighting;
use crate::error::{Error, Kind, Result};
use crate::math::Real;
use crate::num::Float;
use crate::registry::{
    Call, Domain, Family, Hessian, Loss, Options, Plan, SAMPLE_WEIGHT, Spec, Unreduced, label, pred,
};
use crate::simd::Isa;
use crate::sum::{PairwiseSum, sum_exactly};

/// The row of the registry.
pub const SPEC: Spec = Spec {
    name: "MultiLabelMarginLoss",
    family: Family::Rowwise,
    inputs: &[pred(Domain::Real), label(Domain::ClassSets).constant(), SAMPLE_WEIGHT],
    params: &[AXIS],
    unreduced: Unreduced::Row,
    hess: true,
    kinks: "1 + pred[other] == pred[class of the label]",
    build: |p| Ok(Box::new(MultiLabelMargin { axis: p.int(AXIS.name).unwrap_or(-1) as isize })),
};

crate::front::typed! {
    /// Multi-label margin: every class of the label is to be ahead of every class that is not by 1.
    MultiLabelMarginLoss(pred, label) { axis: i64 }
}

/// How far ahead.
const MARGIN: f64 = 1.0;

/// What ends the classes of a label.
const END: f64 = -1.0;

/// The loss with its parameters.
struct MultiLabelMargin {
    axis: isize,
}

impl Loss for MultiLabelMargin {
    fn axes(&self, first: (&str, &[usize]), options: &Options) -> Result<Axes> {
        class_axes(first, self.axis, options)
    }
    fn plan<'a>(&'a self, call: &Call<'a>) -> Result<Box<dyn Plan + 'a>> {
        let (axes, weighting) = (call.axes.clone(), call.weighting()?);
        let labels = class_sets(call, &weighting)?;
        Ok(plan_weighted::<_, 1, 0>(LabelRows { labels }, call, axes, weighting, None))
    }
    fn hessian(&self) -> Hessian {
        Hessian::Zero
    }
    fn in_place(&self) -> bool {
        true
    }
}

/// The labels of all rows, the batch axis first, each up to its end checked to be classes. Those of rows without weight are
/// ended where they are not.
fn class_sets(call: &Call<'_>, weighting: &Weighting<'_>) -> Result<Vec<f64>> {
    let (axes, at) = (&call.axes, call.position("label"));
    let classes = axes.vector_len();
    let label = call.argument(at, |given| axes.line_up_rows(given)).view;
    let mut labels = label.to_vec::<f64>()?;
    for (row, set) in labels.chunks_exact_mut(classes.max(1)).enumerate() {
        let is_class =
            |class: f64| class.trunc() == class && (0.0..classes as f64).contains(&class);
        let end = set.iter().position(|class| !is_class(*class));
        let Some(end) = end.filter(|end| set[*end] != END) else { continue };
        if !weighting.removes(row, &axes.batch_first()) {
            let given = call.given("label").expect("required arguments are bound");
            let index = axes.element_of_rows(row * classes + end, given.shape());
            let expected = format!("an integer with 0 <= label < {classes}, or -1 behind the last");
            let number = given.number(&index);
            return Err(Error::element(Kind::Label, "label", &index, number, expected));
        }
        set[end] = END;
    }
    Ok(labels)
}

struct LabelRows {
    labels: Vec<f64>,
}

impl LabelRows {
    /// The classes of a row's label.
    fn of(&self, row: usize, classes: usize) -> impl Iterator<Item = usize> + Clone {
        let set = &self.labels[row * classes..][..classes];
        set.iter().take_while(|class| **class != END).map(|class| *class as usize)
    }
}

impl<T: Real> RowKernel<T, 1, 0> for LabelRows {
    const COST: f64 = 4.0;
    type Scratch = Vectors<f64, 4>;

    #[inline(always)]
    fn row<S: Isa>(
        &self,
        Row { index, vectors: [x], .. }: Row<'_, T, 1, 0>,
        RowOutputs { grads: [grad], hess, .. }: RowOutputs<'_, T, 1, 0>,
        scratch: &mut Vectors<f64, 4>,
        scale: f64,
    ) -> T {
        // Which classes are not of the label, 0 or 1; the slopes; those of one class of the label, and its terms.
        let [others, slopes, steps, terms] = scratch.each();
        let label = self.of(index, x.len());
        others.fill(1.0);
        label.clone().for_each(|class| others[class] = 0.0);
        slopes.fill(0.0);
        let mut total = PairwiseSum::default();
        for class in label {
            let own = x[class].to_f64();
            for i in 0..x.len() {
                let gap = MARGIN + (x[i].to_f64() - own);
                terms[i] = gap.where_positive(gap).weighted(others[i]);
                steps[i] = 1.0.where_positive(gap).weighted(others[i]);
                slopes[i] += steps[i];
            }
            slopes[class] -= sum_exactly::<S, f64>(steps);
            total.add(sum_exactly::<S, f64>(terms));
        }
        let classes = x.len() as f64;
        if let Some(grad) = grad {
            for (grad, slope) in grad.iter_mut().zip(&*slopes) {
                *grad = T::from_f64(slope * (scale / classes));
            }
        }
        if let Some(hess) = hess {
            hess.fill(T::ZERO);
        }
        T::from_f64(total.total() / classes)
    }

    #[expect(clippy::disallowed_methods, reason = "a few numbers")]
    fn kinks(&self, Row { index, vectors: [x], .. }: Row<'_, f64, 1, 0>) -> Vec<f64> {
        let label = self.of(index, x.len());
        let of_label: Vec<_> = label.collect();
        let others = (0..x.len()).filter(|class| !of_label.contains(class));
        others.flat_map(|i| of_label.iter().map(move |&t| MARGIN + (x[i] - x[t]))).collect()
    }
}
