//! Calls of a loss: arrays bound to its inputs, and results in new arrays or in those of the caller.

use super::{Array, ArrayViewMut, AsArray};
use crate::array::{View, ViewMut};
use crate::error::{Error, Kind, Quoted, Result, quoted};
use crate::num::{DType, Element};
use crate::registry::{
    Arguments, Bound, Checked, Gradient, Inputs, Objective, PathResults, Results, USUAL_INPUTS,
};
use crate::simd;
use half::{bf16, f16};
use smallvec::SmallVec;
use std::marker::PhantomData;

/// A type of predictions, which is that of gradients, too.
pub trait Prediction: Element {
    /// The type of values: for half types single precision, as they have no room for sums.
    type Value: Element;
}

impl Prediction for f16 {
    type Value = f32;
}
impl Prediction for bf16 {
    type Value = f32;
}
impl Prediction for f32 {
    type Value = f32;
}
impl Prediction for f64 {
    type Value = f64;
}

/// The most probable path through the lattice of a sequence loss, with an element for each frame.
#[derive(Clone, Debug, PartialEq)]
pub struct BestPath<P> {
    /// The position in the label sequence of the label that the frame stands for, -1 for blanks and padding.
    pub label_index: Array<i64>,
    /// The logarithm of the probability of the frame's class.
    pub log_prob: Array<P>,
    /// The probability of the frame's state, given the label sequence.
    pub posterior: Array<P>,
}

/// A value, and gradients with respect to several inputs.
pub type ValueAndGrads<P> = (Array<<P as Prediction>::Value>, Vec<Array<P>>);

/// A call of a loss that is still to be made. Predictions, and gradients, are of type `P`.
#[derive(Clone, Debug)]
pub struct Evaluation<'a, P> {
    objective: &'a Objective,
    inputs: Inputs<'a>,
    grad_output: Option<View<'a>>,
    denominator: Option<f64>,
    /// The first mistake, told when results are asked for.
    mistake: Option<Error>,
    prediction: PhantomData<P>,
}

impl Objective {
    /// The name of the loss.
    pub fn name(&self) -> &'static str {
        self.spec.name
    }

    /// A call with its first input, to which the others are added by their names.
    pub fn evaluate<'a, P: Prediction>(
        &'a self,
        first: &'a (impl AsArray<Element = P> + ?Sized),
    ) -> Evaluation<'a, P> {
        let mut inputs = Inputs::new();
        inputs.resize(self.inputs.len(), None);
        inputs[0] = Some(first.as_array().erased());
        Evaluation {
            objective: self,
            inputs,
            grad_output: None,
            denominator: None,
            mistake: None,
            prediction: PhantomData,
        }
    }
}

impl<'a, P: Prediction> Evaluation<'a, P> {
    /// Adds an input by its name.
    pub fn input(mut self, name: &str, array: &'a (impl AsArray + ?Sized)) -> Self {
        if let Some(at) = self.position(name) {
            self.inputs[at] = Some(array.as_array().erased());
        } else {
            let names = quoted(self.objective.inputs.iter().map(|input| input.name));
            let detail = format!("{} takes {names}", self.objective.spec.name);
            self.mistake.get_or_insert(Error::new(Kind::Call, name, detail));
        }
        self
    }

    /// Weights of the samples: one number, one for each sample, or what broadcasts to the unreduced loss.
    pub fn sample_weight(self, array: &'a (impl AsArray + ?Sized)) -> Self {
        self.input("sample_weight", array)
    }

    /// The gradient with respect to the value, which derivatives are multiplied by.
    pub fn grad_output(mut self, array: &'a (impl AsArray + ?Sized)) -> Self {
        self.grad_output = Some(array.as_array().erased());
        self
    }

    /// Replaces the divisor of a mean, for batches that are computed in parts.
    pub fn denominator(mut self, denominator: f64) -> Self {
        if !Bound::Positive.holds(denominator) {
            let detail = format!("expected a finite number > 0, got {denominator}");
            self.mistake.get_or_insert(Error::new(Kind::Parameter, "denominator", detail));
        }
        self.denominator = Some(denominator);
        self
    }

    /// The value.
    ///
    /// # Errors
    /// If an array is not what it must be, or memory is refused.
    pub fn value(self) -> Result<Array<P::Value>> {
        let plan = self.plan()?;
        let mut value = Array::zeros(&plan.value_shape())?;
        plan.run(Results { value: Some(value.view_mut().erased()), ..Results::default() })?;
        Ok(value)
    }

    /// The gradient with respect to the first input.
    ///
    /// # Errors
    /// As [`Evaluation::value`].
    pub fn grad(self) -> Result<Array<P>> {
        let mut grad = self.like(0)?;
        self.grad_into(grad.view_mut())?;
        Ok(grad)
    }

    /// The value, and the gradient with respect to the first input.
    ///
    /// # Errors
    /// As [`Evaluation::value`].
    pub fn value_and_grad(self) -> Result<(Array<P::Value>, Array<P>)> {
        let (plan, mut grad) = (self.plan()?, self.like(0)?);
        let mut value = Array::zeros(&plan.value_shape())?;
        let mut results = Results { value: Some(value.view_mut().erased()), ..Results::default() };
        results.grads.insert(0, grad.view_mut().erased());
        plan.run(results)?;
        Ok((value, grad))
    }

    /// The value, and the gradients with respect to several inputs, by their names.
    ///
    /// # Errors
    /// As [`Evaluation::value`]; and if there is no such gradient.
    #[expect(clippy::disallowed_methods, reason = "as many as there are inputs")]
    pub fn value_and_grads(self, wrt: &[&str]) -> Result<ValueAndGrads<P>> {
        let plan = self.plan()?;
        let mut positions = SmallVec::<[usize; USUAL_INPUTS]>::new();
        for name in wrt {
            positions.push(
                self.differentiable(name).filter(|at| !positions.contains(at)).ok_or_else(
                    || {
                        let inputs = self.objective.inputs.iter();
                        let names = quoted(
                            inputs
                                .map(|input| input.name)
                                .filter(|name| self.differentiable(name).is_some()),
                        );
                        let detail =
                            format!("expected each of {names} once at most, got {}", Quoted(name));
                        Error::new(Kind::Parameter, "wrt", detail)
                    },
                )?,
            );
        }
        let mut value = Array::zeros(&plan.value_shape())?;
        let grads = positions.iter().map(|&at| self.like(at)).collect::<Result<Vec<_>>>();
        let mut grads = grads?;
        let mut results = Results { value: Some(value.view_mut().erased()), ..Results::default() };
        for (&at, grad) in positions.iter().zip(&mut grads) {
            results.grads.insert(at, grad.view_mut().erased());
        }
        plan.run(results)?;
        Ok((value, grads))
    }

    /// The gradient and the diagonal of the second derivative, both with respect to the first input.
    ///
    /// # Errors
    /// As [`Evaluation::value`]; and if the loss has no second derivative to give.
    pub fn grad_hess(self) -> Result<(Array<P>, Array<P>)> {
        let (mut grad, mut hess) = (self.like(0)?, self.like(0)?);
        self.grad_hess_into(grad.view_mut(), hess.view_mut())?;
        Ok((grad, hess))
    }

    /// The value, into memory of the caller.
    ///
    /// # Errors
    /// As [`Evaluation::value`]; and if the memory is not of the value's shape.
    pub fn value_into(self, value: ArrayViewMut<'_, P::Value>) -> Result<()> {
        self.plan()?.run(Results { value: Some(value.erased()), ..Results::default() })
    }

    /// The gradient with respect to the first input, into memory of the caller.
    ///
    /// # Errors
    /// As [`Evaluation::value_into`].
    pub fn grad_into(self, grad: ArrayViewMut<'_, P>) -> Result<()> {
        self.run(None, grad.erased(), None)
    }

    /// The value, and the gradient with respect to the first input, into memory of the caller.
    ///
    /// # Errors
    /// As [`Evaluation::value_into`].
    pub fn value_and_grad_into(
        self,
        value: ArrayViewMut<'_, P::Value>,
        grad: ArrayViewMut<'_, P>,
    ) -> Result<()> {
        self.run(Some(value.erased()), grad.erased(), None)
    }

    /// The gradient and the diagonal of the second derivative, into memory of the caller.
    ///
    /// # Errors
    /// As [`Evaluation::value_into`] and [`Evaluation::grad_hess`].
    pub fn grad_hess_into(
        self,
        grad: ArrayViewMut<'_, P>,
        hess: ArrayViewMut<'_, P>,
    ) -> Result<()> {
        if !self.objective.spec.hess {
            let detail = format!("{} has no second derivative to give", self.objective.spec.name);
            return Err(Error::new(Kind::Call, "", detail));
        }
        self.run(None, grad.erased(), Some(hess.erased()))
    }

    /// The most probable path through the lattice, of a sequence loss.
    ///
    /// # Errors
    /// As [`Evaluation::value`]; and if the loss has no lattice.
    pub fn best_path(self) -> Result<BestPath<P>> {
        let plan = self.plan()?;
        let [_, shape] = plan.path_shapes()?;
        let mut path = BestPath {
            label_index: Array::zeros(&shape)?,
            log_prob: Array::zeros(&shape)?,
            posterior: Array::zeros(&shape)?,
        };
        let alignment = [
            path.label_index.view_mut().erased(),
            path.log_prob.view_mut().erased(),
            path.posterior.view_mut().erased(),
        ];
        plan.run_paths(PathResults { alignment: Some(alignment), ..PathResults::default() })?;
        Ok(path)
    }

    /// The probability of each label of a sequence at each frame, given the sequence.
    ///
    /// # Errors
    /// As [`Evaluation::best_path`].
    pub fn posteriors(self) -> Result<Array<P>> {
        let plan = self.plan()?;
        let [shape, _] = plan.path_shapes()?;
        let mut posteriors = Array::zeros(&shape)?;
        let view = posteriors.view_mut().erased();
        plan.run_paths(PathResults { posteriors: Some(view), ..PathResults::default() })?;
        Ok(posteriors)
    }

    fn run(
        &self,
        value: Option<ViewMut<'_>>,
        grad: ViewMut<'_>,
        hess: Option<ViewMut<'_>>,
    ) -> Result<()> {
        let mut results = Results { value, hess, ..Results::default() };
        results.grads.insert(0, grad);
        self.plan()?.run(results)
    }

    /// Checks the arguments.
    fn plan(&self) -> Result<Checked<'a>> {
        if let Some(mistake) = &self.mistake {
            return Err(mistake.clone());
        }
        let given = || self.objective.inputs.iter().zip(&self.inputs);
        if let Some((input, _)) = given().find(|(input, array)| input.required && array.is_none()) {
            return Err(Error::new(Kind::Call, input.name, "it is missing"));
        }
        for (input, array) in given() {
            let (Gradient::Default, Some(array)) = (input.gradient, array) else { continue };
            if DType::promote(Some(P::DTYPE), array.dtype()) != P::DTYPE {
                let (expected, got) = (P::DTYPE.name(), array.dtype().name());
                let detail = format!("expected {expected}, the type of the first input, got {got}");
                return Err(Error::new(Kind::DType, input.name, detail));
            }
        }
        let level = simd::level().map_err(|e| Error::new(Kind::Parameter, "RUSTLOSS_ISA", e))?;
        self.objective.plan(Arguments {
            level,
            dtype: P::DTYPE,
            inputs: self.inputs.clone(),
            listed: false,
            grad_output: self.grad_output.clone(),
            denominator: self.denominator,
            in_place: false,
        })
    }

    fn position(&self, name: &str) -> Option<usize> {
        self.objective.inputs.iter().position(|input| input.name == name)
    }

    /// The position of an input that is given and has a gradient.
    fn differentiable(&self, name: &str) -> Option<usize> {
        let at = self.position(name)?;
        let has_gradient = self.objective.inputs[at].gradient != Gradient::Never;
        (has_gradient && self.inputs[at].is_some()).then_some(at)
    }

    /// A new array of the shape of an input.
    fn like(&self, at: usize) -> Result<Array<P>> {
        Array::zeros(self.inputs[at].as_ref().map_or(&[], View::shape))
    }
}

#[cfg(test)]
mod tests {
    use crate::{Array, ArrayViewMut, Empty, Error, HuberLoss, Kind, Reduction};
    use crate::{CTCLoss, L2Loss, SDMLLoss, SigmoidBinaryCrossEntropyLoss, TripletLoss, f16};

    const PRED: [f64; 3] = [0.5, 3.0, -1.0];
    const LABEL: [f64; 3] = [0.0, 0.0, -1.0];

    #[test]
    fn parameters_and_options_arrive() {
        let loss = HuberLoss::builder().rho(2.0).weight(3.0).reduction(Reduction::None);
        let (value, grad) = loss.build().unwrap().value_and_grad(&PRED, &LABEL).unwrap();
        assert_eq!(value.data(), [3.0 * 0.0625, 3.0 * 2.0, 0.0]);
        assert_eq!(grad.data(), [3.0 * 0.25, 3.0, 0.0]);
        let none: [f32; 0] = [];
        let value = |empty| {
            let loss = L2Loss::builder().reduction(Reduction::Mean).empty(empty).build()?;
            loss.value(&none, &none).map(|value| value.item())
        };
        assert_eq!(value(Empty::Zero), Ok(Some(0.0)));
        assert!(value(Empty::Nan).unwrap().is_some_and(f32::is_nan));
    }

    #[test]
    fn mistakes_are_errors() {
        let kind = |result: Result<_, Error>| result.map(|_: HuberLoss| ()).unwrap_err();
        assert_eq!(kind(HuberLoss::builder().rho(-1.0).build()).argument, "rho");
        assert_eq!(kind(HuberLoss::builder().weight(f64::NAN).build()).argument, "weight");
        let target_mean = HuberLoss::builder().reduction(Reduction::TargetMean).build();
        assert_eq!(kind(target_mean).argument, "reduction");
        let loss = HuberLoss::new().unwrap();
        let call = || loss.call(&PRED, &LABEL);
        assert_eq!(call().input("labels", &PRED).value().unwrap_err().kind, Kind::Call);
        assert_eq!(call().denominator(0.0).value().unwrap_err().argument, "denominator");
        assert_eq!(call().value_and_grads(&["label", "label"]).unwrap_err().argument, "wrt");
        assert_eq!(call().value_and_grads(&["sample_weight"]).unwrap_err().argument, "wrt");
        assert_eq!(call().best_path().unwrap_err().kind, Kind::Call);
        assert_eq!(loss.value(&PRED, &[0.0]).unwrap_err().kind, Kind::Shape);
        let first_alone = loss.objective().evaluate(&PRED).value();
        assert_eq!(first_alone.unwrap_err().to_string(), "label: it is missing");
        let triplet = TripletLoss::new().unwrap();
        let mixed = triplet.value(&[[1.0_f32]], &[[1.0_f64]], &[[1.0_f32]]);
        assert_eq!(mixed.unwrap_err().kind, Kind::DType);
        let sdml = SDMLLoss::new().unwrap();
        let hess = sdml.call(&[[1.0], [2.0]], &[[1.0], [2.0]]).grad_hess();
        assert_eq!(hess.unwrap_err().kind, Kind::Call);
    }

    #[test]
    fn results_have_the_shapes_that_they_must() {
        let loss = HuberLoss::new().unwrap();
        let mut memory = [7.0; 4];
        for shape in [&[4][..], &[2, 2], &[1, 3]] {
            let len = shape.iter().product();
            let wrong = ArrayViewMut::new(&mut memory[..len], shape).unwrap();
            let error = loss.call(&PRED, &LABEL).grad_into(wrong).unwrap_err();
            assert_eq!(error.kind, Kind::Output, "{shape:?}");
        }
        let mut value = [7.0; 2];
        let wrong = ArrayViewMut::new(&mut value, &[2]).unwrap();
        let error = loss.call(&PRED, &LABEL).value_into(wrong).unwrap_err();
        assert_eq!(error.to_string(), "value: expected shape (3,), got shape (2,)");
        assert_eq!((memory, value), ([7.0; 4], [7.0; 2]));
    }

    #[test]
    fn results_may_be_strided_memory_of_the_caller() {
        let loss = HuberLoss::new().unwrap();
        let (value, grad) = loss.value_and_grad(&PRED, &LABEL).unwrap();
        let mut memory = [7.0; 9];
        let (front, back) = memory.split_at_mut(4);
        let to_value = ArrayViewMut::new(&mut front[..3], &[3]).unwrap();
        let to_grad = ArrayViewMut::strided(back, 4, &[3], &[-2]).unwrap();
        loss.call(&PRED, &LABEL).value_and_grad_into(to_value, to_grad).unwrap();
        let [v, g] = [value.data(), grad.data()];
        assert_eq!(memory, [v[0], v[1], v[2], 7.0, g[2], 7.0, g[1], 7.0, g[0]]);
    }

    #[test]
    fn gradients_with_respect_to_several_inputs() {
        let loss = SigmoidBinaryCrossEntropyLoss::builder().reduction(Reduction::Sum);
        let loss = loss.build().unwrap();
        let (pred, label, pos_weight) = ([0.0], [1.0], [3.0]);
        let call = loss.call(&pred, &label).input("pos_weight", &pos_weight);
        let (value, grads) = call.value_and_grads(&["pos_weight", "pred"]).unwrap();
        assert_eq!(value.item(), Some(3.0 * 2.0_f64.ln()));
        let grads: Vec<_> = grads.iter().filter_map(Array::item).collect();
        assert_eq!(grads, [2.0_f64.ln(), -1.5]);
    }

    #[test]
    fn values_of_half_types_have_single_precision() {
        let pred = [f16::from_f32(300.0); 4];
        let loss = L2Loss::builder().reduction(Reduction::Sum).build().unwrap();
        let (value, grad) = loss.value_and_grad(&pred, &[0_u8; 4]).unwrap();
        assert_eq!(value.item(), Some(180_000.0));
        assert_eq!(grad.data(), pred);
    }

    #[test]
    fn paths_of_a_lattice() {
        // Three classes, the last of them blank; the only path is 0, blank, 1.
        let low = -1e4;
        let pred = [[0.0, low, low], [low, low, 0.0], [low, 0.0, low]];
        let loss = CTCLoss::builder().layout("TC").blank(2).build().unwrap();
        let path = loss.call(&pred, &[0_i64, 1]).best_path().unwrap();
        assert_eq!(path.label_index.data(), [0, -1, 1]);
        assert_eq!(path.posterior.data(), [1.0; 3]);
        let posteriors = loss.call(&pred, &[0_i64, 1]).posteriors().unwrap();
        assert_eq!(posteriors.shape(), [3, 2]);
        assert_eq!(posteriors.data(), [1.0, 0.0, 0.0, 0.0, 0.0, 1.0]);
    }
}
