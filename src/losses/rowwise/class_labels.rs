//! Labels that are class indices: copied, then checked, with the weights that they bring.

use crate::array::View;
use crate::drive::Axes;
use crate::drive::weight::Weighting;
use crate::error::{Error, Kind, Result};
use crate::memory;
use crate::registry::Call;

/// A label that is not looked at.
pub const IGNORED: u32 = u32::MAX;

/// What PyTorch calls a label that is not looked at.
const PADDING: f64 = -100.0;

/// Which labels are left out, and what becomes of those that are no class.
pub struct LabelRule {
    /// The label that is left out.
    pub ignore_index: Option<i64>,
    /// Whether a number that is no class stands for the nearest one.
    pub clip: bool,
}

/// The classes.
pub struct Classes<'a> {
    /// How many there are.
    pub count: usize,
    /// Their weights.
    pub weight: Option<&'a [f64]>,
    /// Whether the weights are part of the loss itself, as with smoothing; weighted means count them all the same.
    pub inside: bool,
}

/// The labels of all rows, the batch axis first.
pub struct ClassLabels {
    /// A class for each row, or [`IGNORED`].
    pub labels: Vec<u32>,
    /// The product of sample weight, class weight and not being ignored, if any of them differs from 1.
    pub weight: Option<Vec<f64>>,
    /// What weighted means divide by the sum of, where that is not `weight`.
    pub divisor_weight: Option<Vec<f64>>,
}

impl ClassLabels {
    /// From the label of a call, lined up with E, whose weights are taken.
    #[allow(clippy::disallowed_methods, reason = "room is reserved first")]
    pub fn new(
        rule: &LabelRule,
        (call, axes): (&Call<'_>, &Axes),
        label: &View<'_>,
        weighting: &mut Weighting<'_>,
        classes: &Classes<'_>,
    ) -> Result<Self> {
        let given = label.to_vec::<f64>()?;
        let sample_weight = weighting.take_weights()?;
        let Classes { count, weight: class_weight, inside } = *classes;
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
                let (name, given) = (call.names[1], call.input(1));
                let index = axes.element(row, given.shape());
                let mut allowed = format!("an integer with 0 <= {name} < {count}");
                if value == PADDING {
                    allowed += " (labels to be left out: ignore_index=-100)";
                }
                return Err(Error::element(
                    Kind::Label,
                    name,
                    &index,
                    given.number(&index),
                    allowed,
                ));
            };
            // Smoothed, such a label leaves the other classes their parts.
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
