//! What can be wrong with a call, in words that name the argument.

use std::fmt;

/// The kind of a mistake; each has its own exception class in Python.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A shape, a number of dimensions or a length of an axis.
    Shape,
    /// An element type.
    DType,
    /// A class label or a token.
    Label,
    /// A sequence length.
    Length,
    /// A sample or class weight.
    Weight,
    /// A constructor parameter or an option of the call.
    Parameter,
    /// An output buffer: read-only, overlapping, or of the wrong layout.
    Output,
    /// A request that does not fit in memory.
    Memory,
    /// The caller was told to stop.
    Interrupted,
}

/// A number as an argument holds it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Number {
    /// Of an integer type or a truth value.
    Int(i128),
    /// Of a floating-point type.
    Float(f64),
}

impl From<f64> for Number {
    fn from(x: f64) -> Self {
        Number::Float(x)
    }
}

impl From<i128> for Number {
    fn from(x: i128) -> Self {
        Number::Int(x)
    }
}

impl From<usize> for Number {
    fn from(x: usize) -> Self {
        Number::Int(x as i128)
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Number::Int(x) => write!(f, "{x}"),
            Number::Float(x) => write!(f, "{x}"),
        }
    }
}

/// A shape as Python prints it: `()`, `(3,)`, `(3, 4)`.
pub struct Tuple<'a>(pub &'a [usize]);

impl fmt::Display for Tuple<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(")?;
        for (i, d) in self.0.iter().enumerate() {
            write!(f, "{}{d}", if i > 0 { ", " } else { "" })?;
        }
        f.write_str(if self.0.len() == 1 { ",)" } else { ")" })
    }
}

/// A mistake in a call: which argument, what was expected, what came.
#[derive(Clone, Debug, PartialEq)]
pub struct Error {
    /// The kind.
    pub kind: Kind,
    /// The argument's name.
    pub argument: String,
    /// What was expected and what came, without the argument's name.
    pub detail: String,
    /// For a label, length or weight: where it stands in the argument.
    pub index: Option<Vec<usize>>,
    /// For a label, length or weight: the value found.
    pub value: Option<Number>,
    /// Whether the argument is a sequence of sequences, and the index goes through them one by one.
    pub nested: bool,
}

/// The result of a check.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error about a whole argument.
    pub fn new(kind: Kind, argument: &str, detail: impl Into<String>) -> Self {
        Error {
            kind,
            argument: argument.to_owned(),
            detail: detail.into(),
            index: None,
            value: None,
            nested: false,
        }
    }

    /// An error about one element of an argument.
    pub fn element(
        kind: Kind,
        argument: &str,
        index: &[usize],
        value: impl Into<Number>,
        allowed: impl fmt::Display,
    ) -> Self {
        let value = value.into();
        Error {
            kind,
            argument: argument.to_owned(),
            detail: format!("expected {allowed}, got {value}"),
            index: Some(index.to_vec()),
            value: Some(value),
            nested: false,
        }
    }

    /// The system refuses memory.
    pub fn memory(bytes: usize) -> Self {
        Error::new(Kind::Memory, "memory", format!("the system refuses {bytes} bytes"))
    }

    /// The caller was told to stop.
    pub fn interrupted() -> Self {
        Error::new(Kind::Interrupted, "call", "interrupted")
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.argument)?;
        match &self.index {
            Some(index) if self.nested => index.iter().try_for_each(|i| write!(f, "[{i}]"))?,
            Some(index) => write!(f, "{index:?}")?,
            None => {}
        }
        write!(f, ": {}", self.detail)
    }
}

impl std::error::Error for Error {}
