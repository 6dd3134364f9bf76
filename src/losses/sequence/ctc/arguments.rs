//! Lengths and label sequences as a call gives them: copied, then checked, then used.

use super::labels::{LabelSequences, allowed_labels};
use crate::array::{View, elements, unravel};
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
    check_lengths(name, view.shape(), samples)?;
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

/// Checks that there is a length for each sample.
fn check_lengths(name: &'static str, shape: &[usize], samples: usize) -> Result<()> {
    if elements(shape) == samples && shape.len() <= 1 {
        Ok(())
    } else {
        wrong_shape(name, &[samples], shape)
    }
}

fn wrong_shape(name: &str, expected: &[usize], got: &[usize]) -> Result<()> {
    let detail = format!("expected shape {}, got shape {}", Tuple(expected), Tuple(got));
    Err(Error::new(Kind::Shape, name, detail))
}

/// Checks the shapes of all arguments but the first, as far as these are given: see [`GivenLabels::new`].
#[cfg(feature = "python")]
pub fn check_shapes<'s>(
    shape: &dyn Fn(&str) -> Option<&'s [usize]>,
    samples: usize,
    single: bool,
    labels_first: bool,
) -> Result<()> {
    let (label, lengths, offsets) = (shape(LABEL), shape(LABEL_LENGTHS), shape(LABEL_OFFSETS));
    for (name, shape) in [(PRED_LENGTHS, shape(PRED_LENGTHS)), (LABEL_LENGTHS, lengths)] {
        shape.map_or(Ok(()), |shape| check_lengths(name, shape, samples))?;
    }
    let Some(label) = label else { return Ok(()) };
    LabelShapes { label, lengths, offsets, listed: false }.form(samples, single, labels_first)?;
    Ok(())
}

/// How labels stand in their array.
enum LabelForm {
    /// One behind another, cut by offsets.
    Offsets,
    /// One behind another, each of its length.
    Lengths,
    /// Those of the only sample.
    Single,
    /// None, of no samples.
    Nothing,
    /// Padded to this many: `labels_first` says whether in columns.
    Padded { width: usize, labels_first: bool },
}

/// The shapes of the arguments that labels are given by.
struct LabelShapes<'s> {
    label: &'s [usize],
    lengths: Option<&'s [usize]>,
    offsets: Option<&'s [usize]>,
    /// Whether labels are a list of sequences.
    listed: bool,
}

impl LabelShapes<'_> {
    /// `single` if there is one sample without an axis; `labels_first` if padded labels have their samples last.
    fn form(&self, samples: usize, single: bool, labels_first: bool) -> Result<LabelForm> {
        let LabelShapes { label, lengths, offsets, listed } = *self;
        let wrong = |expected: String| {
            let detail = format!("expected {expected}, got shape {}", Tuple(label));
            Error::new(Kind::Shape, LABEL, detail)
        };
        let wrong_count = |count: usize| {
            let detail = format!("expected {samples} sequences, one for each sample, got {count}");
            Error::new(Kind::Shape, LABEL, detail)
        };
        match (label, offsets) {
            (&[_], Some(offsets)) => {
                if lengths.is_some() {
                    let (argument, detail) = if listed {
                        (LABEL, "expected rows of one length beside label_lengths")
                    } else {
                        (LABEL_LENGTHS, "expected either label_lengths or label_offsets")
                    };
                    return Err(Error::new(Kind::Parameter, argument, detail));
                }
                if listed && offsets != [samples + 1] {
                    return Err(wrong_count(elements(offsets) - 1));
                }
                if offsets != [samples + 1] {
                    wrong_shape(LABEL_OFFSETS, &[samples + 1], offsets)?;
                }
                Ok(LabelForm::Offsets)
            }
            (&[_], None) if single => Ok(LabelForm::Single),
            (&[0], None) if samples == 0 => Ok(LabelForm::Nothing),
            (&[_], None) if lengths.is_some() => Ok(LabelForm::Lengths),
            (&[_], None) => {
                Err(wrong("two dimensions, or label_lengths or label_offsets for one".into()))
            }
            (&[rows, cols], offsets) if listed || (!single && offsets.is_none()) => {
                let labels_first = labels_first && !listed;
                let (n, width) = if labels_first { (cols, rows) } else { (rows, cols) };
                match n {
                    _ if n == samples => Ok(LabelForm::Padded { width, labels_first }),
                    _ if listed => Err(wrong_count(n)),
                    _ => Err(wrong(format!("labels of {samples} samples"))),
                }
            }
            _ => Err(wrong("padded labels of all samples, or one dimension".into())),
        }
    }
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
        let view = call.given(LABEL).expect("required arguments are bound");
        let listed = call.arguments.listed;
        let lengths = |most| lengths(call, LABEL_LENGTHS, samples, most);
        // An empty list has no sequences, or it is one without labels.
        let offsets = call.given(LABEL_OFFSETS);
        let offsets = offsets.filter(|offsets| !(listed && single && offsets.len() == 1));
        let shapes = LabelShapes {
            label: view.shape(),
            lengths: call.given(LABEL_LENGTHS).map(View::shape),
            offsets: offsets.map(View::shape),
            listed,
        };
        let (end, runs) = match shapes.form(samples, single, labels_first)? {
            LabelForm::Offsets => {
                let offsets = offsets.expect("they cut the labels");
                let places = places(offsets, samples, view.len())?;
                let ends = places.iter().skip(1);
                let runs = places.iter().zip(ends).map(|(&place, end)| (place, 1, end - place));
                (SequenceEnd::Next, memory::collect(runs)?)
            }
            LabelForm::Single => {
                let given = lengths(Some(view.len()))?;
                let end = if given.is_some() { SequenceEnd::Length } else { SequenceEnd::Padding };
                let count = given.map_or(view.len(), |lengths| lengths[0]);
                (end, memory::filled((0, 1, count), 1)?)
            }
            LabelForm::Nothing => (SequenceEnd::Padding, Vec::new()),
            LabelForm::Lengths => {
                let lengths = lengths(None)?.expect("they cut the labels");
                let total = lengths.iter().fold(0usize, |sum, &l| sum.saturating_add(l));
                if total != view.len() {
                    let detail = format!(
                        "expected as many labels as label_lengths add up to, {total}, got shape {}",
                        Tuple(view.shape())
                    );
                    return Err(Error::new(Kind::Shape, LABEL, detail));
                }
                let mut next = 0;
                let runs = lengths.iter().map(|&length| {
                    next += length;
                    (next - length, 1, length)
                });
                (SequenceEnd::Length, memory::collect(runs)?)
            }
            LabelForm::Padded { width, labels_first } => {
                let given = lengths(Some(width))?;
                let end = if given.is_some() { SequenceEnd::Length } else { SequenceEnd::Padding };
                let length = |n: usize| given.as_ref().map_or(width, |lengths| lengths[n]);
                let (step, between) = if labels_first { (samples, 1) } else { (1, width) };
                let runs = (0..samples).map(|n| (n * between, step, length(n)));
                (end, memory::collect(runs)?)
            }
        };
        Ok(GivenLabels { view: view.clone(), labels: view.to_vec()?, runs, end, listed })
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
        LabelSequences::new(flat, offsets)
            .ok_or_else(|| Error::new(Kind::Shape, LABEL, "expected sequences one behind another"))
    }

    /// The error for label i of sample n.
    #[expect(clippy::disallowed_macros, reason = "a place in a list of lists")]
    fn wrong(&self, n: usize, i: usize, classes: usize, blank: u32) -> Error {
        let (start, step, _) = self.runs[n];
        let place = unravel(start + i * step, self.view.shape());
        let value = self.view.number(&place);
        let index = if self.listed { vec![n, i] } else { place };
        let allowed = allowed_labels(classes, blank);
        let mut error = Error::element(Kind::Label, LABEL, &index, value, allowed);
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
