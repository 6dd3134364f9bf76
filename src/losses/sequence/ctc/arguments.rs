//! Lengths and label sequences as a call gives them: copied, then checked, then used.

use super::labels::{LabelSequences, allowed_labels};
use crate::array::{View, unravel};
use crate::error::{Error, Kind, Number, Result, Tuple};
use crate::memory;
use crate::registry::Call;

/// The names of the arguments.
const LABEL: &str = "label";
pub const PRED_LENGTHS: &str = "pred_lengths";
const LABEL_LENGTHS: &str = "label_lengths";
const LABEL_OFFSETS: &str = "label_offsets";

/// Lengths of all samples: whole numbers up to `most`, if there is a limit.
pub fn lengths(
    call: &Call<'_>,
    name: &'static str,
    samples: usize,
    most: Option<usize>,
) -> Result<Option<Vec<usize>>> {
    let Some(view) = call.given(name) else { return Ok(None) };
    if view.len() != samples || view.shape().len() > 1 {
        let (expected, got) = ([samples], view.shape());
        let detail = format!("expected shape {}, got shape {}", Tuple(&expected), Tuple(got));
        return Err(Error::new(Kind::Shape, name, detail));
    }
    let mut lengths = memory::filled(0, samples)?;
    for (n, (length, x)) in lengths.iter_mut().zip(view.to_vec::<f64>()?).enumerate() {
        *length =
            whole(x).filter(|&length| most.is_none_or(|most| length <= most)).ok_or_else(|| {
                let index = if view.shape().is_empty() { &[][..] } else { &[n] };
                let allowed = match most {
                    Some(most) => format!("an integer from 0 to {most}"),
                    None => "an integer >= 0".into(),
                };
                Error::element(Kind::Length, name, index, view.number(index), allowed)
            })?;
    }
    Ok(Some(lengths))
}

/// A number without a fraction that is not negative.
fn whole(x: f64) -> Option<usize> {
    Some(x as usize).filter(|&whole| whole as f64 == x)
}

/// How the arguments say where a label sequence ends.
#[derive(Clone, Copy, PartialEq)]
enum SequenceEnd {
    /// By the first -1, or the end of its row.
    Padding,
    /// By a length.
    Length,
    /// By the offset of the next sequence.
    Next,
}

/// The labels of a sample in the array: the place of the first one, the step from one to the next, and how many.
type LabelRun = (usize, usize, usize);

/// Labels as they were given, copied.
pub struct GivenLabels<'a> {
    name: &'a str,
    /// As they stand in the argument.
    view: View<'a>,
    labels: Vec<f64>,
    /// One for each sample.
    runs: Vec<LabelRun>,
    end: SequenceEnd,
    /// Whether the argument is a list of sequences.
    listed: bool,
}

impl<'a> GivenLabels<'a> {
    /// `single` if there is one sample without an axis; `labels_first` if padded labels have their samples last.
    pub fn new(call: &Call<'a>, samples: usize, single: bool, labels_first: bool) -> Result<Self> {
        let (view, name, listed) = (
            call.given(LABEL).expect("required arguments are bound"),
            LABEL,
            call.arguments.listed,
        );
        let shape = view.shape();
        let wrong = |expected: String| {
            let detail = format!("expected {expected}, got shape {}", Tuple(shape));
            Error::new(Kind::Shape, name, detail)
        };
        let wrong_count = |count: usize| {
            let detail = format!("expected {samples} sequences, one for each sample, got {count}");
            Error::new(Kind::Shape, name, detail)
        };
        let lengths = |most| lengths(call, LABEL_LENGTHS, samples, most);
        let offsets = call.given(LABEL_OFFSETS);
        // An empty list has no sequences, or it is one without labels.
        let offsets = offsets.filter(|offsets| !(listed && single && offsets.len() == 1));
        let (end, runs) = match (shape.len(), offsets) {
            (1, Some(offsets)) => {
                if call.given(LABEL_LENGTHS).is_some() {
                    let (argument, detail) = if listed {
                        (LABEL, "expected rows of one length beside label_lengths")
                    } else {
                        (LABEL_LENGTHS, "expected either label_lengths or label_offsets")
                    };
                    return Err(Error::new(Kind::Parameter, argument, detail));
                }
                if listed && offsets.len() != samples + 1 {
                    return Err(wrong_count(offsets.len() - 1));
                }
                let places = places(offsets, samples, shape[0])?;
                let ends = places.iter().skip(1);
                let runs = places.iter().zip(ends).map(|(&place, end)| (place, 1, end - place));
                (SequenceEnd::Next, memory::collect(runs)?)
            }
            (1, None) if single => {
                let given = lengths(Some(shape[0]))?;
                let end = if given.is_some() { SequenceEnd::Length } else { SequenceEnd::Padding };
                let count = given.map_or(shape[0], |lengths| lengths[0]);
                (end, memory::filled((0, 1, count), 1)?)
            }
            (1, None) if samples == 0 && shape[0] == 0 => (SequenceEnd::Padding, Vec::new()),
            (1, None) => {
                let Some(lengths) = lengths(None)? else {
                    let expected = "two dimensions, or label_lengths or label_offsets for one";
                    return Err(wrong(expected.into()));
                };
                let total = lengths.iter().fold(0usize, |sum, &l| sum.saturating_add(l));
                if total != shape[0] {
                    let expected = format!("as many labels as label_lengths add up to, {total}");
                    return Err(wrong(expected));
                }
                let mut next = 0;
                let runs = lengths.iter().map(|&length| {
                    next += length;
                    (next - length, 1, length)
                });
                (SequenceEnd::Length, memory::collect(runs)?)
            }
            (2, offsets) if listed || (!single && offsets.is_none()) => {
                let labels_first = labels_first && !listed;
                let (n, width) =
                    if labels_first { (shape[1], shape[0]) } else { (shape[0], shape[1]) };
                if n != samples {
                    return Err(if listed {
                        wrong_count(n)
                    } else {
                        wrong(format!("labels of {samples} samples"))
                    });
                }
                let given = lengths(Some(width))?;
                let end = if given.is_some() { SequenceEnd::Length } else { SequenceEnd::Padding };
                let length = |n: usize| given.as_ref().map_or(width, |lengths| lengths[n]);
                let (step, between) = if labels_first { (samples, 1) } else { (1, width) };
                (end, memory::collect((0..n).map(|n| (n * between, step, length(n))))?)
            }
            _ => return Err(wrong("padded labels of all samples, or one dimension".into())),
        };
        Ok(GivenLabels { name, view: view.clone(), labels: view.to_vec()?, runs, end, listed })
    }

    /// Checks the labels of all samples. Samples that are `left_out` become empty, and their labels are not read.
    #[expect(clippy::disallowed_methods, reason = "room is reserved first")]
    pub fn check(
        &self,
        left_out: impl Fn(usize) -> bool,
        classes: usize,
        blank: u32,
    ) -> Result<LabelSequences> {
        let most = self.runs.iter().map(|&(.., count)| count).sum();
        let (mut flat, mut offsets) = (Vec::new(), Vec::new());
        memory::reserve(&mut flat, most)?;
        memory::reserve(&mut offsets, self.runs.len() + 1)?;
        offsets.push(0);
        for (n, &(start, step, count)) in self.runs.iter().enumerate() {
            for i in 0..if left_out(n) { 0 } else { count } {
                let x = self.labels[start + i * step];
                if self.end == SequenceEnd::Padding && x == -1.0 {
                    break;
                }
                let label = x as u32;
                if f64::from(label) != x || label as usize >= classes || label == blank {
                    return Err(self.wrong(n, i, classes, blank));
                }
                flat.push(label);
            }
            offsets.push(flat.len());
        }
        LabelSequences::new(flat, offsets).ok_or_else(|| {
            Error::new(Kind::Shape, self.name, "expected sequences one behind another")
        })
    }

    /// The error for label i of sample n.
    #[expect(clippy::disallowed_macros, reason = "a place in a list of lists")]
    fn wrong(&self, n: usize, i: usize, classes: usize, blank: u32) -> Error {
        let (start, step, _) = self.runs[n];
        let place = unravel(start + i * step, self.view.shape());
        let value = self.view.number(&place);
        let index = if self.listed { vec![n, i] } else { place };
        let allowed = allowed_labels(classes, blank);
        let mut error = Error::element(Kind::Label, self.name, &index, value, allowed);
        error.nested = self.listed;
        let negative = match value {
            Number::Int(x) => x < 0,
            Number::Float(x) => x < 0.0,
        };
        if negative || value == Number::from(i128::from(blank)) || value == f64::from(blank).into()
        {
            error.detail += match self.end {
                SequenceEnd::Padding => "; padding is -1, or anything at all behind label_lengths",
                SequenceEnd::Length => "; label_lengths counts it as a label",
                SequenceEnd::Next if self.listed => {
                    "; sequences of different lengths need no padding, and rows of one length are \
                     padded with -1"
                }
                SequenceEnd::Next => "; label_offsets counts it as a label",
            };
        }
        error
    }
}

/// Offsets that ascend from 0 to the number of labels.
fn places(offsets: &View<'_>, samples: usize, labels: usize) -> Result<Vec<usize>> {
    let name = LABEL_OFFSETS;
    if *offsets.shape() != [samples + 1] {
        let (expected, got) = ([samples + 1], offsets.shape());
        let detail = format!("expected shape {}, got shape {}", Tuple(&expected), Tuple(got));
        return Err(Error::new(Kind::Shape, name, detail));
    }
    let mut places = memory::filled(0, samples + 1)?;
    let mut least = 0;
    for (i, x) in offsets.to_vec::<f64>()?.into_iter().enumerate() {
        let most = if i == 0 { 0 } else { labels };
        least = if i == samples { labels } else { least };
        let Some(place) = whole(x).filter(|place| (least..=most).contains(place)) else {
            let allowed = format!("an integer from {least} to {most}");
            return Err(Error::element(Kind::Length, name, &[i], offsets.number(&[i]), allowed));
        };
        (places[i], least) = (place, place);
    }
    Ok(places)
}
