//! The arrays of a call: what each may hold, how it lines up with the first, and whether it has a gradient.

use crate::array::{broadcasts, reshapes};
use crate::drive::Axes;
pub use crate::drive::domain::Domain;
use crate::error::{Error, Kind, Result, Tuple};

/// An array argument.
#[derive(Clone, Copy, Debug)]
pub struct Input {
    /// Its name.
    pub name: &'static str,
    /// What it may hold.
    pub domain: Domain,
    /// How it lines up with the first input.
    pub shape: ShapeRule,
    /// Whether a call must give it.
    pub required: bool,
    /// Whether there is a gradient with respect to it.
    pub gradient: Gradient,
}

/// When a gradient is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gradient {
    /// Unless others are asked for.
    Default,
    /// If asked for.
    OnRequest,
    /// Never.
    Never,
}

/// How the shape of an input follows from that of the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShapeRule {
    /// It is the first.
    First,
    /// As many elements: the same shape up to axes of size 1, or one dimension.
    Same,
    /// The same, or one vector along the class axis for all.
    SameOrOneVector,
    /// The very same shape.
    Exact,
    /// Broadcasts to it.
    Broadcast,
    /// One number for each vector: the shape without the axis of the vectors, or with it of size 1.
    PerVector,
    /// Weights: a number, one for each sample, or what broadcasts to the unreduced loss.
    Weight,
    /// One number for the call.
    Scalar,
    /// What the loss itself checks, together with the numbers.
    Own,
}

impl ShapeRule {
    /// Whether there is an element for each of the first input's.
    pub fn has_elements(self) -> bool {
        matches!(
            self,
            ShapeRule::First
                | ShapeRule::Same
                | ShapeRule::SameOrOneVector
                | ShapeRule::Exact
                | ShapeRule::Broadcast
        )
    }
}

impl Input {
    /// With another shape rule.
    pub const fn shaped(self, shape: ShapeRule) -> Self {
        Input { shape, ..self }
    }

    /// Without a gradient.
    pub const fn constant(self) -> Self {
        Input { gradient: Gradient::Never, ..self }
    }

    /// With another domain.
    pub const fn of(self, domain: Domain) -> Self {
        Input { domain, ..self }
    }

    /// Whether an input of shape `given` lines up with the first, of shape `shape` and of that name.
    ///
    /// # Errors
    /// If it does not.
    pub(crate) fn check_shape(
        &self,
        given: &[usize],
        (first, shape): (&str, &[usize]),
        axes: &Axes,
    ) -> Result<()> {
        let fits = match self.shape {
            ShapeRule::First | ShapeRule::Own | ShapeRule::Scalar => true,
            ShapeRule::Weight => return axes.check_weight(given),
            ShapeRule::Same => reshapes(given, &axes.first),
            ShapeRule::SameOrOneVector => reshapes(given, &axes.first) || axes.is_one_vector(given),
            ShapeRule::Exact => given == shape,
            ShapeRule::Broadcast => broadcasts(given, &axes.first),
            ShapeRule::PerVector => reshapes(given, &axes.shape),
        };
        if fits {
            return Ok(());
        }
        let [shape, given] = [shape, given].map(Tuple);
        let own = format!("({first} has shape {shape})");
        let expected = match self.shape {
            ShapeRule::Exact => format!("{first}'s shape {shape}"),
            ShapeRule::Broadcast => format!("a shape that broadcasts to that of {first} {own}"),
            ShapeRule::PerVector => format!(
                "the shape without the axis of the vectors, or with it of size 1, of {first} {own}"
            ),
            _ => format!(
                "{first}'s shape up to axes of size 1, or one dimension with as many elements {own}"
            ),
        };
        let detail = format!("expected {expected}, got shape {given}");
        Err(Error::new(Kind::Shape, self.name, detail))
    }
}

/// An input that every call gives.
pub const fn input(name: &'static str, domain: Domain, gradient: Gradient) -> Input {
    Input { name, domain, shape: ShapeRule::Same, required: true, gradient }
}

/// An input that a call may leave out.
pub const fn optional(name: &'static str, domain: Domain, gradient: Gradient) -> Input {
    Input { name, domain, shape: ShapeRule::Broadcast, required: false, gradient }
}

/// The prediction.
pub const fn pred(domain: Domain) -> Input {
    input("pred", domain, Gradient::Default).shaped(ShapeRule::First)
}

/// A label with a gradient.
pub const fn label(domain: Domain) -> Input {
    input("label", domain, Gradient::OnRequest)
}

/// The weights that every loss takes.
pub const SAMPLE_WEIGHT: Input =
    optional("sample_weight", Domain::Weight, Gradient::Never).shaped(ShapeRule::Weight);
