//! A type for each loss, made where the loss is: its parameters become methods of a builder.

use crate::drive::Reduction;
use crate::error::Result;
use crate::registry::{Objective, Options, Params, Spec, Value};
use std::marker::PhantomData;

/// A loss of the registry as a type.
pub trait Registered: Sized {
    /// Its row of the registry.
    #[doc(hidden)]
    const SPEC: &'static Spec;

    /// The loss with its parameters and options.
    #[doc(hidden)]
    fn with(objective: Objective) -> Self;
}

/// The mean of nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Empty {
    /// NaN.
    Nan,
    /// 0.
    Zero,
}

/// The parameters and options of a loss; what is not set has its default.
#[derive(Debug)]
pub struct Builder<L> {
    params: Vec<(String, Value)>,
    options: Options,
    loss: PhantomData<fn() -> L>,
}

impl<L: Registered> Builder<L> {
    pub(crate) fn new() -> Self {
        Builder { params: Vec::new(), options: Options::DEFAULT, loss: PhantomData }
    }

    #[expect(clippy::disallowed_methods, reason = "as many as the registry has")]
    pub(crate) fn set(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.params.push((name.to_owned(), value.into()));
        self
    }

    /// A factor of the loss, 1 by default.
    pub fn weight(mut self, weight: f64) -> Self {
        self.options.weight = weight;
        self
    }

    /// How the unreduced loss becomes the result: [`Reduction::Sample`] by default, as in Gluon.
    pub fn reduction(mut self, reduction: Reduction) -> Self {
        self.options.reduction = reduction;
        self
    }

    /// The axis of the samples, 0 by default; negative ones count from the last.
    pub fn batch_axis(mut self, axis: isize) -> Self {
        self.options.batch_axis = axis;
        self
    }

    /// The mean of nothing, NaN by default.
    pub fn empty(mut self, empty: Empty) -> Self {
        self.options.empty = if empty == Empty::Nan { f64::NAN } else { 0.0 };
        self
    }

    /// The loss.
    ///
    /// # Errors
    /// If a parameter or an option is not acceptable, or some do not go together.
    pub fn build(self) -> Result<L> {
        let spec = L::SPEC;
        let params = Params::new(spec.name, spec.params, self.params)?;
        Objective::new(spec, &params, self.options).map(L::with)
    }
}

/// The type of a loss, beside its row of the registry, `SPEC`: the inputs that every call gives, in the registry's order,
/// and the parameters with their types. A test holds both against the registry.
macro_rules! typed {
    (
        $(#[$doc:meta])*
        $name:ident($first:ident $(, $input:ident)*) { $($param:ident: $type:ty),* $(,)? }
    ) => {
        pub(crate) mod typed {
            use $crate::error::Result;
            use $crate::front::{Array, AsArray, Builder, Evaluation, Prediction, Registered};
            use $crate::registry::{Objective, Spec};

            /// The name, the inputs and the parameters.
            #[cfg(test)]
            pub(crate) const DECLARED: (&str, &[&str], &[&str]) = (
                stringify!($name),
                &[stringify!($first) $(, stringify!($input))*],
                &[$(stringify!($param)),*],
            );

            $(#[$doc])*
            #[derive(Debug)]
            pub struct $name(Objective);

            impl Registered for $name {
                const SPEC: &'static Spec = &super::SPEC;

                fn with(objective: Objective) -> Self {
                    $name(objective)
                }
            }

            impl $name {
                /// The loss with its defaults.
                ///
                /// # Errors
                /// If the defaults do not make a loss.
                #[allow(clippy::new_ret_no_self)]
                pub fn new() -> Result<Self> {
                    Self::builder().build()
                }

                /// The loss with parameters and options of its own.
                pub fn builder() -> Builder<Self> {
                    Builder::new()
                }

                /// The loss without its type, to be kept together with others.
                pub fn objective(&self) -> &Objective {
                    &self.0
                }

                /// A call: optional arrays are added to it, and results asked of it.
                pub fn call<'a, P: Prediction>(
                    &'a self,
                    $first: &'a (impl AsArray<Element = P> + ?Sized),
                    $($input: &'a (impl AsArray + ?Sized),)*
                ) -> Evaluation<'a, P> {
                    self.0.evaluate($first)$(.input(stringify!($input), $input))*
                }

                /// The value.
                ///
                /// # Errors
                /// If an array is not what it must be.
                pub fn value<P: Prediction>(
                    &self,
                    $first: &(impl AsArray<Element = P> + ?Sized),
                    $($input: &(impl AsArray + ?Sized),)*
                ) -> Result<Array<P::Value>> {
                    self.call($first $(, $input)*).value()
                }

                /// The gradient with respect to the first array.
                ///
                /// # Errors
                /// As [`Self::value`].
                pub fn grad<P: Prediction>(
                    &self,
                    $first: &(impl AsArray<Element = P> + ?Sized),
                    $($input: &(impl AsArray + ?Sized),)*
                ) -> Result<Array<P>> {
                    self.call($first $(, $input)*).grad()
                }

                /// The value, and the gradient with respect to the first array.
                ///
                /// # Errors
                /// As [`Self::value`].
                pub fn value_and_grad<P: Prediction>(
                    &self,
                    $first: &(impl AsArray<Element = P> + ?Sized),
                    $($input: &(impl AsArray + ?Sized),)*
                ) -> Result<(Array<P::Value>, Array<P>)> {
                    self.call($first $(, $input)*).value_and_grad()
                }
            }

            impl Builder<$name> {
                $(
                    #[doc = concat!("The parameter `", stringify!($param), "`.")]
                    pub fn $param(self, $param: $type) -> Self {
                        self.set(stringify!($param), $param)
                    }
                )*
            }
        }
    };
}
pub(crate) use typed;
