//! Labels that are one class: copied, then checked, with the weights that they bring, and the call of a loss of them.

use super::AXIS;
use super::plan::RowCall;
use crate::array::{Shape, View};
use crate::drive::Axes;
use crate::drive::row_kernel::{Erased, RowKernel, TileKernel};
use crate::drive::weight::Weighting;
use crate::error::{Error, Kind, Result, Tuple};
use crate::math::Real;
use crate::memory;
use crate::registry::{
    Accepts, Call, Default, Domain, Hessian, Input, Loss, Options, Param, Params, Plan, Results,
    ShapeRule, label, param,
};
use crate::softmax::{Head, IGNORED, SparseRows};

/// A label that is one class.
pub const CLASS_LABEL: Input = label(Domain::Classes).constant().shaped(ShapeRule::PerVector);

/// Labels that are left out.
pub const IGNORE_INDEX: Param = param("ignore_index", Default::None, Accepts::Int(i64::MIN));

/// What becomes of labels that are no class.
pub const RAISE_OR_CLIP: Param =
    param("out_of_range", Default::Text("raise"), Accepts::Choice(&["raise", "clip"]));

/// What PyTorch calls a label that is not looked at.
const PADDING: f64 = -100.0;

/// The axes of a loss with one number for each row of logits.
///
/// # Errors
/// If there are rows but no classes.
pub fn class_axes((name, first): (&str, &[usize]), axis: isize, options: &Options) -> Result<Axes> {
    let axes = Axes::rowwise((name, first), axis, options.batch_axis)?;
    if axes.has_empty_vectors() {
        let detail = format!("expected at least one class, got shape {}", Tuple(first));
        return Err(Error::new(Kind::Shape, name, detail));
    }
    Ok(axes)
}

/// Checks that there is one weight for each class.
///
/// # Errors
/// If there are more or fewer.
pub fn check_class_weights(name: &str, weights: Option<&[f64]>, axes: &Axes) -> Result<()> {
    let classes = axes.vector_len();
    let Some(given) = weights.map(<[f64]>::len).filter(|given| *given != classes) else {
        return Ok(());
    };
    let detail = format!("expected one weight for each of {classes} classes, got {given}");
    Err(Error::new(Kind::Shape, name, detail))
}

/// Which labels are left out, and what becomes of those that are no class.
pub struct LabelRule {
    /// The label that is left out.
    pub ignore_index: Option<i64>,
    /// Whether a number that is no class stands for the nearest one.
    pub clip: bool,
}

impl LabelRule {
    /// From the parameters.
    pub fn new(params: &Params) -> Self {
        LabelRule {
            ignore_index: params.int(IGNORE_INDEX.name),
            clip: params.text(RAISE_OR_CLIP.name) == "clip",
        }
    }
}

/// The weights of the classes.
#[derive(Clone, Copy)]
pub struct ClassWeights<'a> {
    /// They themselves, if there are any.
    pub weights: Option<&'a [f64]>,
    /// Whether they are part of the loss itself, as with smoothing; weighted means count them all the same.
    pub inside: bool,
}

/// The labels of all rows, the batch axis first.
pub struct ClassLabels {
    /// A class for each row, or [`IGNORED`].
    pub labels: Vec<u32>,
    /// The product of sample weight, class weight and not being ignored, if any of them differs from 1.
    weight: Option<Vec<f64>>,
    /// What weighted means divide by the sum of, where that is not `weight`.
    divisor_weight: Option<Vec<f64>>,
}

impl ClassLabels {
    /// From the label of a call, whose weights are taken from `weighting`.
    #[expect(clippy::disallowed_methods, reason = "room is reserved first")]
    fn new(
        rule: &LabelRule,
        call: &Call<'_>,
        weighting: &mut Weighting<'_>,
        classes: ClassWeights<'_>,
    ) -> Result<Self> {
        let axes = &call.axes;
        let count = axes.vector_len();
        let at = call.position(CLASS_LABEL.name);
        let label = call.argument(at, |given| axes.line_up(given)).view;
        let given = label.to_vec::<f64>()?;
        let sample_weight = weighting.take_weights()?;
        let ClassWeights { weights: class_weight, inside } = classes;
        let ignore_index = rule.ignore_index.map(|i| i as f64);
        let mut labels = Vec::new();
        memory::reserve(&mut labels, given.len())?;
        for (row, &value) in given.iter().enumerate() {
            let weightless = sample_weight.as_ref().is_some_and(|w| w[row] == 0.0);
            // The conversion saturates, so that only a whole number in range survives the way back.
            let class = value as u32;
            let label = if weightless || Some(value) == ignore_index {
                IGNORED
            } else if f64::from(class) == value && (class as usize) < count {
                class
            } else if rule.clip && !value.is_nan() {
                value.trunc().clamp(0.0, count as f64 - 1.0) as u32
            } else {
                return Err(not_a_class(call, row, count));
            };
            // As a part of the loss itself, such a label leaves the other classes their parts.
            let without =
                !inside && class_weight.is_some_and(|w| w.get(label as usize) == Some(&0.0));
            labels.push(if without { IGNORED } else { label });
        }
        let weigh = |by_class: Option<&[f64]>| -> Result<Vec<f64>> {
            let rows = labels.iter().enumerate();
            memory::collect(rows.map(|(row, &label)| {
                if label == IGNORED {
                    return 0.0;
                }
                by_class.map_or(1.0, |w| w[label as usize])
                    * sample_weight.as_ref().map_or(1.0, |w| w[row])
            }))
        };
        let plain = sample_weight.is_none() && !labels.contains(&IGNORED);
        let (weight, divisor_weight) = match (plain, class_weight) {
            (true, None) => (None, None),
            (true, Some(_)) if inside => (None, Some(weigh(class_weight)?)),
            (false, Some(_)) if inside => (Some(weigh(None)?), Some(weigh(class_weight)?)),
            _ => (Some(weigh(class_weight)?), None),
        };
        Ok(ClassLabels { labels, weight, divisor_weight })
    }
}

#[cold]
fn not_a_class(call: &Call<'_>, row: usize, count: usize) -> Error {
    let name = CLASS_LABEL.name;
    let given = call.given(name).expect("required arguments are bound");
    let index = call.axes.element(row, given.shape());
    let mut allowed = format!("an integer with 0 <= {name} < {count}");
    if given.number(&index).to_f64() == PADDING {
        allowed += " (labels to be left out: ignore_index=-100)";
    }
    Error::element(Kind::Label, name, &index, given.number(&index), allowed)
}

/// A loss of labels that are one class: makes its kernel for the labels of a call.
pub trait Sparse: Send + Sync {
    /// The kernel.
    type Kernel<'k>: RowKernel<f32, 1, 0> + RowKernel<f64, 1, 0>
    where
        Self: 'k;
    /// For labels.
    fn kernel<'k>(&'k self, labels: &'k [u32]) -> Self::Kernel<'k>;
    /// What there is of the second derivative.
    fn hessian(&self) -> Hessian {
        Hessian::Diagonal
    }
}

impl<H: Head + Send> Sparse for H {
    type Kernel<'k>
        = SparseRows<'k>
    where
        Self: 'k;
    fn kernel<'k>(&'k self, labels: &'k [u32]) -> Self::Kernel<'k> {
        SparseRows::new(labels, self)
    }
}

/// A loss of labels that are one class, with what all of them have.
pub struct SparseLoss<L> {
    axis: isize,
    rule: LabelRule,
    /// The name of the parameter that weighs the classes, and the weights.
    class_weight: Option<(&'static str, Vec<f64>)>,
    loss: L,
}

impl<L> SparseLoss<L> {
    /// From the parameters, one of which may weigh the classes.
    ///
    /// # Errors
    /// If memory is refused.
    pub fn new(loss: L, params: &Params, class_weight: Option<&'static str>) -> Result<Self> {
        let given = class_weight.and_then(|name| Some((name, params.vector(name)?)));
        Ok(SparseLoss {
            axis: params.int(AXIS.name).unwrap_or(-1) as isize,
            rule: LabelRule::new(params),
            class_weight: given
                .map(|(name, weights)| Ok((name, memory::copied(weights)?)))
                .transpose()?,
            loss,
        })
    }

    fn weights(&self) -> Option<&[f64]> {
        self.class_weight.as_ref().map(|(_, weights)| &weights[..])
    }
}

impl<L: Sparse + Copy> Loss for SparseLoss<L> {
    fn axes(&self, first: (&str, &[usize]), options: &Options) -> Result<Axes> {
        let axes = class_axes(first, self.axis, options)?;
        let name = self.class_weight.as_ref().map_or("", |(name, _)| name);
        check_class_weights(name, self.weights(), &axes)?;
        Ok(axes)
    }
    fn plan<'a>(&'a self, call: &Call<'a>) -> Result<Box<dyn Plan + 'a>> {
        let classes = ClassWeights { weights: self.weights(), inside: false };
        plan(self.loss, &self.rule, classes, call)
    }
    fn hessian(&self) -> Hessian {
        self.loss.hessian()
    }
    fn in_place(&self) -> bool {
        true
    }
}

/// Checks a call of a loss whose label is one class.
pub fn plan<'a, L: Sparse + 'a>(
    loss: L,
    rule: &LabelRule,
    classes: ClassWeights<'_>,
    call: &Call<'a>,
) -> Result<Box<dyn Plan + 'a>> {
    let mut weighting = call.weighting()?;
    let labels = ClassLabels::new(rule, call, &mut weighting, classes)?;
    let mut rows = RowCall::new::<1, 0>(call, call.axes.clone(), weighting);
    rows.limit_range(classes.weights);
    Ok(Box::new(SparsePlan { loss, labels, rows }))
}

struct SparsePlan<'a, L> {
    loss: L,
    labels: ClassLabels,
    rows: RowCall<'a>,
}

impl<L: Sparse> SparsePlan<'_, L> {
    fn run_in<T: Real>(&self, kernel: &dyn TileKernel<T>, results: Results<'_>) -> Result<()> {
        let shape = self.rows.axes.batch_first();
        let view = |weights| View::from_slice(weights, &shape);
        let weighting = Weighting {
            sample_weight: self.labels.weight.as_deref().map(view),
            divisor_weight: self.labels.divisor_weight.as_deref().map(view),
            ..self.rows.weighting.clone()
        };
        self.rows.run::<T>(kernel, &weighting, results)
    }
}

impl<L: Sparse> Plan for SparsePlan<'_, L> {
    fn value_shape(&self) -> Shape {
        self.rows.value_shape()
    }
    fn cost(&self) -> f64 {
        <L::Kernel<'_> as RowKernel<f32, 1, 0>>::COST * self.rows.len() as f64
    }
    fn kinks(&self) -> Result<Vec<f64>> {
        let kernel = self.loss.kernel(&self.labels.labels);
        self.rows.kinks::<1, 0>(&|row| RowKernel::<f64, 1, 0>::kinks(&kernel, row))
    }
    fn run(&self, results: Results<'_>) -> Result<()> {
        let kernel = self.loss.kernel(&self.labels.labels);
        if self.rows.single {
            self.run_in::<f32>(&Erased(&kernel), results)
        } else {
            self.run_in::<f64>(&Erased(&kernel), results)
        }
    }
}
