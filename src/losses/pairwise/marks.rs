//! Marks of single pairs in a matrix of pairs, a bit for each.

use crate::error::Result;
use crate::memory;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// Pairs of a word.
const PAIRS: usize = u64::BITS as usize;

/// The marks of a block of rows, each of which one task writes.
pub struct Marks {
    words: Vec<AtomicU64>,
    of_row: usize,
}

impl Marks {
    /// Of no pair.
    pub fn new(rows: usize, cols: usize) -> Result<Self> {
        let of_row = cols.div_ceil(PAIRS);
        let words = memory::collect((0..rows * of_row).map(|_| AtomicU64::new(0)))?;
        Ok(Marks { words, of_row })
    }

    /// Marks pairs of a row, and no others of it.
    pub fn write(&self, row: usize, are_marked: &[bool]) {
        let words = &self.words[row * self.of_row..][..self.of_row];
        for (word, are_marked) in words.iter().zip(are_marked.chunks(PAIRS)) {
            let bits = are_marked.iter().rev().fold(0, |bits, &is| bits << 1 | u64::from(is));
            word.store(bits, Ordering::Relaxed);
        }
    }

    /// The marked pairs among some rows and columns.
    pub fn within(
        &self,
        rows: Range<usize>,
        cols: Range<usize>,
    ) -> impl Iterator<Item = [usize; 2]> {
        let words = cols.start / PAIRS..cols.end.div_ceil(PAIRS);
        rows.flat_map(move |row| words.clone().map(move |word| (row, word)))
            .filter_map(|(row, word)| {
                let bits = self.words[row * self.of_row + word].load(Ordering::Relaxed);
                (bits != 0).then_some((row, word, bits))
            })
            .flat_map(|(row, word, bits)| {
                let marked = (0..PAIRS).filter(move |bit| bits >> bit & 1 == 1);
                marked.map(move |bit| [row, word * PAIRS + bit])
            })
            .filter(move |[_, col]| cols.contains(col))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_marked() {
        let marks = Marks::new(2, 130).unwrap();
        let is_marked = |row: usize, col: usize| (row * 130 + col).is_multiple_of(7);
        for row in [0, 1] {
            marks.write(row, &[true; 130]);
            let row_of_marks: Vec<_> = (0..130).map(|col| is_marked(row, col)).collect();
            marks.write(row, &row_of_marks);
        }
        for cols in [0..130, 3..129, 64..128, 65..66] {
            let found: Vec<_> = marks.within(0..2, cols.clone()).collect();
            let pairs = [0, 1].into_iter().flat_map(|row| cols.clone().map(move |col| [row, col]));
            let expected: Vec<_> = pairs.filter(|[row, col]| is_marked(*row, *col)).collect();
            assert_eq!(found, expected);
        }
    }
}
