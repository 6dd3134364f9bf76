//! From the unreduced loss to what the caller sees: reductions, their divisors, and sums.

use crate::real::Real;

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
}

/// Accumulators of a sum. The order of a sum is a function of its length alone: element i goes to lane i mod `LANES`,
/// lanes are added pairwise, and blocks of `BLOCK` elements are added pairwise.
pub const LANES: usize = 16;

/// Longest run that is summed in lanes before it becomes a partial sum of its own.
pub const BLOCK: usize = 1024;

/// Sum of at most [`BLOCK`] numbers, in f64.
#[inline(always)]
pub fn sum_block<T: Real>(x: &[T]) -> f64 {
    if x.len() < LANES {
        return x.iter().map(|v| v.to_f64()).fold(0.0, |a, v| a + v);
    }
    let mut lanes = [0.0; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for l in 0..LANES {
            lanes[l] += chunk[l].to_f64();
        }
    }
    for (lane, v) in lanes.iter_mut().zip(rest) {
        *lane += v.to_f64();
    }
    sum_lanes(lanes)
}

/// Sum of the lanes, pairwise.
#[inline(always)]
pub fn sum_lanes(mut lanes: [f64; LANES]) -> f64 {
    let mut half = LANES / 2;
    while half > 0 {
        for l in 0..half {
            lanes[l] += lanes[l + half];
        }
        half /= 2;
    }
    lanes[0]
}

/// Pairwise sum.
pub fn sum_pairwise(x: &[f64]) -> f64 {
    match x {
        [] => 0.0,
        [a] => *a,
        _ => {
            let (a, b) = x.split_at(x.len().next_power_of_two() / 2);
            sum_pairwise(a) + sum_pairwise(b)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums() {
        for n in [0, 1, 5, 15, 16, 17, 1000, BLOCK] {
            let x: Vec<f32> = (0..n).map(|i| i as f32).collect();
            assert_eq!(sum_block(&x), (n * n.saturating_sub(1) / 2) as f64);
            let x: Vec<f64> = x.iter().map(|&v| v.into()).collect();
            assert_eq!(sum_pairwise(&x), (n * n.saturating_sub(1) / 2) as f64);
        }
    }
}
