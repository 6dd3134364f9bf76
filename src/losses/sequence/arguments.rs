//! Lengths and label sequences as a call gives them: copied, then checked, then used.

use crate::error::{Error, Kind, Result};
use crate::losses::call::Call;
use crate::view::{Shape, View, unravel};

/// Where the arguments stand.
pub(super) const PRED_LENGTHS: usize = 2;
const LABEL_LENGTHS: usize = 3;
const LABEL_OFFSETS: usize = 4;

/// A length beyond all labels, and still exact as a float.
const LONGEST: usize = 1 << 53;

/// Lengths of all samples: whole numbers up to `most`.
pub(super) fn lengths(
    call: &Call<'_>,
    position: usize,
    samples: usize,
    most: usize,
) -> Result<Option<Vec<usize>>> {
    let Some(view) = &call.inputs[position] else { return Ok(None) };
    let name = call.names[position];
    if view.len() != samples || view.shape().len() > 1 {
        let detail = format!("expected shape [{samples}], got shape {:?}", view.shape());
        return Err(Error::new(Kind::Shape, name, detail));
    }
    let whole = |(n, x): (usize, f64)| {
        let length = x as usize;
        if length as f64 == x && length <= most {
            return Ok(length);
        }
        let index = if view.shape().is_empty() { vec![] } else { vec![n] };
        let allowed = format!("an integer from 0 to {most}");
        Err(Error::element(Kind::Length, name, &index, x, allowed))
    };
    view.to_vec::<f64>()?.into_iter().enumerate().map(whole).collect::<Result<_>>().map(Some)
}

/// Labels as they were given, copied.
pub(super) struct GivenLabels<'a> {
    name: &'a str,
    labels: Vec<f64>,
    /// Per sample: the place of the first label, the step from one to the next, and how many there are.
    runs: Vec<(usize, usize, usize)>,
    /// Whether a -1 ends a sequence.
    ends: bool,
    shape: Shape,
}

impl<'a> GivenLabels<'a> {
    /// `single` if there is one sample without an axis; `labels_first` if padded labels have their samples last.
    pub fn new(call: &Call<'a>, samples: usize, single: bool, labels_first: bool) -> Result<Self> {
        let view = call.input(1);
        let (name, shape) = (call.names[1], view.shape());
        let wrong = |expected: String| {
            Error::new(Kind::Shape, name, format!("expected {expected}, got shape {shape:?}"))
        };
        let lengths_up_to = |most: usize| lengths(call, LABEL_LENGTHS, samples, most);
        let mut ends = false;
        let runs = match (shape.len(), &call.inputs[LABEL_OFFSETS]) {
            (1, Some(offsets)) => {
                if call.inputs[LABEL_LENGTHS].is_some() {
                    let detail = "expected either label_lengths or label_offsets, which a list of sequences brings";
                    return Err(Error::new(Kind::Parameter, call.names[1], detail));
                }
                let places = lengths_of_offsets(call, offsets, samples, shape[0])?;
                (0..samples).map(|n| (places[n], 1, places[n + 1] - places[n])).collect()
            }
            (1, None) if single => {
                let given = lengths_up_to(shape[0])?;
                ends = given.is_none();
                vec![(0, 1, given.map_or(shape[0], |lengths| lengths[0]))]
            }
            (1, None) => {
                let Some(lengths) = lengths_up_to(LONGEST)? else {
                    return Err(wrong(
                        "two dimensions, or label_lengths or label_offsets for one".into(),
                    ));
                };
                let total = lengths.iter().fold(0usize, |sum, &l| sum.saturating_add(l));
                if total != shape[0] {
                    return Err(wrong(format!(
                        "as many labels as label_lengths add up to, {total}"
                    )));
                }
                let starts = lengths.iter().scan(0, |next, length| {
                    *next += length;
                    Some(*next - length)
                });
                starts.zip(&lengths).map(|(start, &length)| (start, 1, length)).collect()
            }
            (2, None) if !single => {
                let (n, width) =
                    if labels_first { (shape[1], shape[0]) } else { (shape[0], shape[1]) };
                if n != samples {
                    return Err(wrong(format!("labels of {samples} samples")));
                }
                let given = lengths_up_to(width)?;
                ends = given.is_none();
                let length = |n: usize| given.as_ref().map_or(width, |lengths| lengths[n]);
                let (step, between) = if labels_first { (samples, 1) } else { (1, width) };
                (0..n).map(|n| (n * between, step, length(n))).collect()
            }
            _ => return Err(wrong("padded labels of all samples, or one dimension".into())),
        };
        let labels = view.to_vec::<f64>()?;
        Ok(GivenLabels { name, labels, runs, ends, shape: Shape::from_slice(shape) })
    }

    /// Checks the labels of a sample and appends them.
    pub fn push(&self, n: usize, classes: usize, blank: u32, flat: &mut Vec<u32>) -> Result<()> {
        let (start, step, count) = self.runs[n];
        for i in 0..count {
            let place = start + i * step;
            let value = self.labels[place];
            if self.ends && value == -1.0 {
                break;
            }
            let label = value as u32;
            if f64::from(label) != value || label as usize >= classes || label == blank {
                let index = unravel(place, &self.shape);
                let allowed = format!(
                    "an integer with 0 <= {} < {classes} that is not the blank, {blank}",
                    self.name
                );
                return Err(Error::element(Kind::Label, self.name, &index, value, allowed));
            }
            flat.push(label);
        }
        Ok(())
    }
}

/// Offsets that ascend from 0 to the number of labels.
fn lengths_of_offsets(
    call: &Call<'_>,
    offsets: &View<'_>,
    samples: usize,
    labels: usize,
) -> Result<Vec<usize>> {
    let name = call.names[LABEL_OFFSETS];
    if *offsets.shape() != [samples + 1] {
        // A list of sequences comes as offsets too.
        let detail = format!(
            "expected {samples} sequences, so label_offsets of shape [{}], got shape {:?}",
            samples + 1,
            offsets.shape()
        );
        return Err(Error::new(Kind::Shape, call.names[1], detail));
    }
    let mut places: Vec<usize> = Vec::with_capacity(samples + 1);
    for (i, x) in offsets.to_vec::<f64>()?.into_iter().enumerate() {
        let least = places.last().copied().unwrap_or(0);
        let most = if i == 0 { 0 } else { labels };
        let least = if i == samples { labels } else { least };
        let place = x as usize;
        if place as f64 != x || place < least || place > most {
            let allowed = format!("an integer from {least} to {most}");
            return Err(Error::element(Kind::Length, name, &[i], x, allowed));
        }
        places.push(place);
    }
    Ok(places)
}
