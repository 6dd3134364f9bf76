//! Constructor parameters: what a loss declares, and the values that it was given, checked.

use crate::error::{Error, Kind, Number, Quoted, Result, Tuple, quoted};
use std::fmt;

/// A constructor parameter.
pub struct Param {
    /// Its name.
    pub name: &'static str,
    /// Its default.
    pub default: Default,
    /// What it accepts.
    pub kind: Accepts,
}

/// A default that can stand in a table.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Default {
    /// None.
    None,
    /// A truth value.
    Flag(bool),
    /// An integer.
    Int(i64),
    /// A number.
    Float(f64),
    /// A word.
    Text(&'static str),
}

impl Default {
    /// The default as a value.
    pub fn value(self) -> Value {
        match self {
            Default::None => Value::None,
            Default::Flag(b) => Value::Flag(b),
            Default::Int(i) => Value::Int(i),
            Default::Float(x) => Value::Float(x),
            Default::Text(t) => Value::Text(t.to_owned()),
        }
    }
}

/// What a parameter accepts; `None` is accepted where it is the default.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Accepts {
    /// A truth value.
    Flag,
    /// An integer >= the bound.
    Int(i64),
    /// One of several integers.
    OneOf(&'static [i64]),
    /// A number within bounds.
    Float(Bound),
    /// One of several words.
    Choice(&'static [&'static str]),
    /// A truth value or one of several words.
    FlagOr(&'static [&'static str]),
    /// An integer >= 0 or one of several words.
    IndexOr(&'static [&'static str]),
    /// A vector of weights.
    Weights,
    /// A vector of numbers from 0 to 1.
    Probabilities,
}

/// The bounds of a number; always finite.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    /// Any finite number.
    Finite,
    /// > 0.
    Positive,
    /// >= 0.
    NonNegative,
    /// >= 1.
    AtLeastOne,
    /// 0 to 1, both included.
    Unit,
}

/// A parameter's value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// None.
    None,
    /// A truth value.
    Flag(bool),
    /// An integer.
    Int(i64),
    /// A number.
    Float(f64),
    /// A word.
    Text(String),
    /// A vector.
    Vector(Vec<f64>),
}

impl From<bool> for Value {
    fn from(x: bool) -> Self {
        Value::Flag(x)
    }
}

impl From<i64> for Value {
    fn from(x: i64) -> Self {
        Value::Int(x)
    }
}

impl From<i32> for Value {
    fn from(x: i32) -> Self {
        Value::Int(i64::from(x))
    }
}

impl From<f64> for Value {
    fn from(x: f64) -> Self {
        Value::Float(x)
    }
}

impl From<&str> for Value {
    fn from(x: &str) -> Self {
        Value::Text(x.to_owned())
    }
}

#[expect(clippy::disallowed_methods, reason = "parameters, which have no size of the input's")]
impl From<&[f64]> for Value {
    fn from(x: &[f64]) -> Self {
        Value::Vector(x.to_vec())
    }
}

impl Value {
    /// The value that Python writes like this: the reverse of its `Display`, and of Python's `repr`.
    #[cfg(feature = "python")]
    #[expect(clippy::disallowed_methods, reason = "as long as the text")]
    pub fn parse(text: &str) -> Option<Value> {
        let between = |first, last| text.strip_prefix(first)?.strip_suffix(last);
        Some(match text {
            "None" => Value::None,
            "True" => Value::Flag(true),
            "False" => Value::Flag(false),
            _ => {
                if let Some(word) = between('\'', '\'') {
                    Value::Text(word.to_owned())
                } else if let Some(numbers) = between('(', ')') {
                    let numbers = numbers.split(',').map(str::trim).filter(|n| !n.is_empty());
                    Value::Vector(numbers.map(|n| n.parse().ok()).collect::<Option<_>>()?)
                } else if let Ok(i) = text.parse() {
                    Value::Int(i)
                } else {
                    Value::Float(text.parse().ok()?)
                }
            }
        })
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::None => f.write_str("None"),
            Value::Flag(true) => f.write_str("True"),
            Value::Flag(false) => f.write_str("False"),
            Value::Int(i) => write!(f, "{i}"),
            Value::Float(x) => Number::Float(*x).fmt(f),
            Value::Text(text) => Quoted(text).fmt(f),
            Value::Vector(v) => Tuple(v).fmt(f),
        }
    }
}

impl Value {
    /// As Python shows it, 1.0 not as 1: for messages that ask for an integer.
    pub fn exact(&self) -> String {
        match self {
            Value::Float(x) if x.is_finite() => format!("{x:?}"),
            value => value.to_string(),
        }
    }
}

impl Accepts {
    fn is_integer(self) -> bool {
        matches!(self, Accepts::Int(_) | Accepts::OneOf(_) | Accepts::IndexOr(_))
    }

    /// The value if it is acceptable.
    fn accept(self, value: Value) -> std::result::Result<Value, Value> {
        match (self, value) {
            (Accepts::Flag | Accepts::FlagOr(_), v @ Value::Flag(_)) => Ok(v),
            (Accepts::Int(min), Value::Int(i)) if i >= min => Ok(Value::Int(i)),
            (Accepts::OneOf(all), Value::Int(i)) if all.contains(&i) => Ok(Value::Int(i)),
            (Accepts::IndexOr(_), Value::Int(i)) if i >= 0 => Ok(Value::Int(i)),
            (Accepts::Float(bound), Value::Int(i)) if bound.holds(i as f64) => {
                Ok(Value::Float(i as f64))
            }
            (Accepts::Float(bound), Value::Float(x)) if bound.holds(x) => Ok(Value::Float(x)),
            (
                Accepts::Choice(words) | Accepts::FlagOr(words) | Accepts::IndexOr(words),
                Value::Text(t),
            ) if words.contains(&t.as_str()) => Ok(Value::Text(t)),
            (Accepts::Weights, Value::Vector(v))
                if !v.is_empty() && v.iter().all(|&w| Bound::NonNegative.holds(w)) =>
            {
                Ok(Value::Vector(v))
            }
            (Accepts::Probabilities, Value::Vector(v))
                if !v.is_empty() && v.iter().all(|&p| Bound::Unit.holds(p)) =>
            {
                Ok(Value::Vector(v))
            }
            (_, v) => Err(v),
        }
    }

    fn expected(self) -> String {
        match self {
            Accepts::Flag => "True or False".into(),
            Accepts::Int(i64::MIN) => "an integer".into(),
            Accepts::Int(min) => format!("an integer >= {min}"),
            Accepts::OneOf(all) => format!("one of {}", Tuple(all)),
            Accepts::Float(Bound::Finite) => "a finite number".into(),
            Accepts::Float(Bound::Positive) => "a finite number > 0".into(),
            Accepts::Float(Bound::NonNegative) => "a finite number >= 0".into(),
            Accepts::Float(Bound::AtLeastOne) => "a finite number >= 1".into(),
            Accepts::Float(Bound::Unit) => "a number from 0 to 1".into(),
            Accepts::Choice(words) => format!("one of {}", quoted(words.iter().copied())),
            Accepts::FlagOr(words) => {
                format!("True, False or one of {}", quoted(words.iter().copied()))
            }
            Accepts::IndexOr(words) => {
                format!("an integer >= 0 or one of {}", quoted(words.iter().copied()))
            }
            Accepts::Weights => "a vector of finite weights >= 0".into(),
            Accepts::Probabilities => "a vector of numbers from 0 to 1".into(),
        }
    }
}

impl Bound {
    /// Whether a number is finite and within the bounds.
    pub fn holds(self, x: f64) -> bool {
        x.is_finite()
            && match self {
                Bound::Finite => true,
                Bound::Positive => x > 0.0,
                Bound::NonNegative => x >= 0.0,
                Bound::AtLeastOne => x >= 1.0,
                Bound::Unit => (0.0..=1.0).contains(&x),
            }
    }
}

/// The parameters of a loss, checked against its [`Spec`].
#[derive(Clone, Debug)]
pub struct Params(Vec<(&'static str, Value)>);

impl Params {
    /// Checks the values `given` to a loss of that name and fills in defaults.
    ///
    /// # Errors
    /// If a name is unknown or a value is not acceptable.
    #[expect(clippy::disallowed_methods, reason = "as many as the registry has")]
    pub fn new(
        loss: &str,
        declared: &[Param],
        given: impl IntoIterator<Item = (String, Value)>,
    ) -> Result<Params> {
        let mut params = Params(declared.iter().map(|p| (p.name, p.default.value())).collect());
        for (name, value) in given {
            let Some(at) = declared.iter().position(|p| p.name == name) else {
                let own = quoted(declared.iter().map(|p| p.name));
                let detail = format!("{loss} has no such parameter; its own are {own}");
                return Err(Error::new(Kind::Parameter, &name, detail));
            };
            let Param { default, kind, .. } = declared[at];
            params.0[at].1 = match value {
                Value::None if default == Default::None => Value::None,
                value => kind.accept(value).map_err(|value| {
                    let or_none = if default == Default::None { " or None" } else { "" };
                    let got = if kind.is_integer() { value.exact() } else { value.to_string() };
                    let detail = format!("expected {}{or_none}, got {got}", kind.expected());
                    Error::new(Kind::Parameter, &name, detail)
                })?,
            };
        }
        Ok(params)
    }

    /// Every parameter with its value, in the registry's order.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &Value)> {
        self.0.iter().map(|(name, value)| (*name, value))
    }

    /// A parameter's value.
    ///
    /// # Panics
    /// If the registry has no such parameter for this loss.
    pub fn get(&self, name: &str) -> &Value {
        let found = self.0.iter().find(|(n, _)| *n == name);
        &found.expect("a parameter of the registry").1
    }

    /// Refuses a parameter that has no meaning without a certain value of another.
    ///
    /// # Errors
    /// If `fine` is false.
    pub fn only_if(&self, fine: bool, name: &str, needs: (&'static str, bool)) -> Result<()> {
        if fine {
            return Ok(());
        }
        let (other, value) = needs;
        let detail = format!("it needs {other}={}, got {}", Value::Flag(value), self.get(name));
        let mut error = Error::new(Kind::Parameter, name, detail);
        error.needs = Some(needs);
        Err(error)
    }

    /// A number.
    pub fn float(&self, name: &str) -> f64 {
        match self.get(name) {
            Value::Float(x) => *x,
            Value::Int(i) => *i as f64,
            other => panic!("{name} is {other}, not a number"),
        }
    }

    /// An integer.
    pub fn int(&self, name: &str) -> Option<i64> {
        match self.get(name) {
            Value::Int(i) => Some(*i),
            _ => None,
        }
    }

    /// Whether labels outside their domain follow the formula.
    pub fn allows_out_of_range(&self) -> bool {
        self.0.iter().any(|(name, value)| {
            *name == OUT_OF_RANGE.name && *value == Value::Text("allow".into())
        })
    }

    /// A truth value.
    pub fn flag(&self, name: &str) -> bool {
        *self.get(name) == Value::Flag(true)
    }

    /// A word, if it is one.
    pub fn text(&self, name: &str) -> &str {
        match self.get(name) {
            Value::Text(t) => t,
            _ => "",
        }
    }

    /// A vector, if given.
    pub fn vector(&self, name: &str) -> Option<&[f64]> {
        match self.get(name) {
            Value::Vector(v) => Some(v),
            _ => None,
        }
    }
}

/// What becomes of labels outside their domain, for losses whose labels have one.
pub const OUT_OF_RANGE: Param =
    param("out_of_range", Default::Text("raise"), Accepts::Choice(&["raise", "allow"]));

/// A parameter.
pub const fn param(name: &'static str, default: Default, kind: Accepts) -> Param {
    Param { name, default, kind }
}

/// A truth value.
pub const fn flag(name: &'static str, default: bool) -> Param {
    param(name, Default::Flag(default), Accepts::Flag)
}

/// A number.
pub const fn float(name: &'static str, default: f64, bound: Bound) -> Param {
    param(name, Default::Float(default), Accepts::Float(bound))
}
