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
    pub value: Option<f64>,
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
        }
    }

    /// An error about one element of an argument.
    pub fn element(
        kind: Kind,
        argument: &str,
        index: &[usize],
        value: f64,
        allowed: impl fmt::Display,
    ) -> Self {
        Error {
            kind,
            argument: argument.to_owned(),
            detail: format!("expected {allowed}, got {value}"),
            index: Some(index.to_vec()),
            value: Some(value),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.argument)?;
        if let Some(index) = &self.index {
            write!(f, "{index:?}")?;
        }
        write!(f, ": {}", self.detail)
    }
}

impl std::error::Error for Error {}
