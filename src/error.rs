//! What can be wrong with a call, in words that name the argument.

use std::fmt;
use std::ops::{Deref, DerefMut};

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
    /// The arguments as a whole: one is missing, unknown, or given twice.
    Call,
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

impl Number {
    /// The nearest `f64`.
    pub fn to_f64(self) -> f64 {
        match self {
            Number::Int(x) => x as f64,
            Number::Float(x) => x,
        }
    }
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
            Number::Float(x) if x.is_nan() => f.write_str("nan"),
            Number::Float(x) if x.fract() == 0.0 && x.abs() < 1e16 => write!(f, "{x}"),
            // The shortest digits that give the number back, with an exponent where Python has one.
            Number::Float(x) => write!(f, "{x:?}"),
        }
    }
}

impl Number {
    fn is_negative(self) -> bool {
        match self {
            Number::Int(x) => x < 0,
            Number::Float(x) => x < 0.0,
        }
    }
}

/// A shape, or whatever else, as Python prints a tuple: `()`, `(3,)`, `(3, 4)`. Of a long one the start.
pub struct Tuple<'a, T = usize>(pub &'a [T]);

impl<T: fmt::Display> fmt::Display for Tuple<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// More than the most axes that NumPy has.
        const SHOWN: usize = 80;
        f.write_str("(")?;
        for (i, x) in self.0.iter().take(SHOWN).enumerate() {
            write!(f, "{}{x}", if i > 0 { ", " } else { "" })?;
        }
        if self.0.len() > SHOWN {
            f.write_str(", ...")?;
        }
        f.write_str(if self.0.len() == 1 { ",)" } else { ")" })
    }
}

/// A word as Python prints it. Of a long one the start.
#[derive(Clone, Copy)]
pub struct Quoted<'a>(pub &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 60;
        f.write_str("'")?;
        for (i, c) in self.0.chars().take(SHOWN + 1).enumerate() {
            match c {
                _ if i == SHOWN => f.write_str("...")?,
                '"' => f.write_str("\"")?,
                c => write!(f, "{}", c.escape_debug())?,
            }
        }
        f.write_str("'")
    }
}

/// Words as Python prints a tuple of them.
#[expect(clippy::disallowed_methods, reason = "the words of a message")]
pub fn quoted<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    Tuple(&words.into_iter().map(Quoted).collect::<Vec<_>>()).to_string()
}

/// A mistake in a call, with the fields of [`Mistake`]: `error.kind` and so on. It is a pointer, so that results that may be
/// one are small.
#[derive(Clone, Debug, PartialEq)]
pub struct Error(Box<Mistake>);

/// Which argument of a call is wrong, what was expected, what came.
#[derive(Clone, Debug, PartialEq)]
pub struct Mistake {
    /// The kind.
    pub kind: Kind,
    /// The argument's name; empty if there is none to blame.
    pub argument: String,
    /// What was expected and what came, without the argument's name.
    pub detail: String,
    /// For a label, length or weight: where it stands in the argument.
    pub index: Option<Box<[usize]>>,
    /// For a label, length or weight: the value found.
    pub value: Option<Number>,
    /// Whether the argument is a sequence of sequences, and the index goes through them one by one.
    pub nested: bool,
    /// For a parameter that has no meaning without another: that one, and the value that it must have.
    pub needs: Option<(&'static str, bool)>,
}

/// The result of a check.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error about a whole argument.
    pub fn new(kind: Kind, argument: &str, detail: impl Into<String>) -> Self {
        Error(Box::new(Mistake {
            kind,
            argument: argument.to_owned(),
            detail: detail.into(),
            index: None,
            value: None,
            nested: false,
            needs: None,
        }))
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
        let remedy = match kind {
            Kind::Weight if value.is_negative() => "; signed factors belong in grad_output",
            _ => "",
        };
        let mut error =
            Error::new(kind, argument, format!("expected {allowed}, got {value}{remedy}"));
        error.index = Some(index.into());
        error.value = Some(value);
        error
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

impl Deref for Error {
    type Target = Mistake;

    fn deref(&self) -> &Mistake {
        &self.0
    }
}

impl DerefMut for Error {
    fn deref_mut(&mut self) -> &mut Mistake {
        &mut self.0
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.argument.is_empty() {
            return f.write_str(&self.detail);
        }
        f.write_str(&self.argument)?;
        match &self.index {
            Some(index) if self.nested => index.iter().try_for_each(|i| write!(f, "[{i}]"))?,
            Some(index) if !index.is_empty() => write!(f, "{index:?}")?,
            _ => {}
        }
        write!(f, ": {}", self.detail)
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_messages_show_is_python() {
        let shapes: [(&[usize], &str); 3] = [(&[], "()"), (&[3], "(3,)"), (&[3, 4], "(3, 4)")];
        for (shape, text) in shapes {
            assert_eq!(Tuple(shape).to_string(), text);
        }
        let numbers = [
            (Number::Int(i128::from(u64::MAX)), "18446744073709551615"),
            (Number::Float(f64::NAN), "nan"),
            (Number::Float(f64::NEG_INFINITY), "-inf"),
            (Number::Float(2.0), "2"),
            (Number::Float(-0.1), "-0.1"),
            (Number::Float(1e300), "1e300"),
        ];
        for (number, text) in numbers {
            assert_eq!(number.to_string(), text);
        }
        assert_eq!(quoted(["a\n", "it's \"b\""]), r#"('a\n', 'it\'s "b"')"#);
        assert_eq!(Quoted(&"x".repeat(1000)).to_string().len(), 65);
        assert!(Tuple(&[0; 1000]).to_string().ends_with(", 0, ...)"));
    }

    #[test]
    fn negative_weights_have_a_remedy() {
        let text = |kind, value: i128| Error::element(kind, "w", &[1], value, "x").to_string();
        let remedy = "; signed factors belong in grad_output";
        assert_eq!(text(Kind::Weight, -2), format!("w[1]: expected x, got -2{remedy}"));
        assert_eq!(text(Kind::Weight, 2), "w[1]: expected x, got 2");
        assert_eq!(text(Kind::Label, -2), "w[1]: expected x, got -2");
        assert_eq!(Error::new(Kind::Call, "", "no").to_string(), "no");
    }
}
