//! From the unreduced loss to what the caller sees.

/// How the unreduced loss E, of shape (N, ...), becomes the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduction {
    /// E itself.
    None,
    /// The mean over all axes but the batch axis; shape (N,).
    Sample,
    /// The sum over all axes but the batch axis; shape (N,).
    SampleSum,
    /// The sum of E.
    Sum,
    /// The mean of E, ignored elements counted.
    Mean,
    /// The sum of E divided by N.
    BatchMean,
    /// sum(w E) / sum(w).
    WeightedMean,
    /// sum(w E) / sum(w) over all axes but the batch axis; shape (N,).
    SampleWeightedMean,
    /// The mean over the batch of E divided by the target's length (sequence losses).
    TargetMean,
}

impl Reduction {
    /// Every reduction with its name.
    pub const ALL: &'static [(&'static str, Reduction)] = &[
        ("none", Reduction::None),
        ("sample", Reduction::Sample),
        ("sample_sum", Reduction::SampleSum),
        ("sum", Reduction::Sum),
        ("mean", Reduction::Mean),
        ("batch_mean", Reduction::BatchMean),
        ("weighted_mean", Reduction::WeightedMean),
        ("sample_weighted_mean", Reduction::SampleWeightedMean),
        ("target_mean", Reduction::TargetMean),
    ];

    /// Whether the result is one number.
    pub fn is_total(self) -> bool {
        matches!(
            self,
            Reduction::Sum
                | Reduction::Mean
                | Reduction::BatchMean
                | Reduction::WeightedMean
                | Reduction::TargetMean
        )
    }

    /// Whether the result has the loss of each element, where a sample has `cols` of them.
    pub fn keeps_elements(self, cols: usize) -> bool {
        let sums_one = matches!(self, Reduction::Sample | Reduction::SampleSum) && cols == 1;
        sums_one || self == Reduction::None
    }

    /// Whether a call may replace the divisor.
    pub fn takes_denominator(self) -> bool {
        matches!(self, Reduction::Mean | Reduction::WeightedMean)
    }
}
