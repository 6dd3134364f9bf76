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

    /// Marks pairs of a row from a column on, a multiple of [`PAIRS`], and no others of these.
    pub fn write(&self, row: usize, col: usize, are_marked: &[bool]) {
        let words = &self.words[row * self.of_row..][..self.of_row][col / PAIRS..];
        for (word, are_marked) in words.iter().zip(are_marked.chunks(PAIRS)) {
            let bits = are_marked.iter().rev().fold(0, |bits, &is| bits << 1 | u64::from(is));
            word.store(bits, Ordering::Relaxed);
        }
    }

    /// Whether any pair among some rows and columns is marked.
    pub fn any(&self, rows: Range<usize>, cols: Range<usize>) -> bool {
        let mut any = false;
        self.each(rows, cols, &mut |_| any = true);
        any
    }

    /// Calls `f` with each marked pair among some rows and columns.
    pub fn each(&self, rows: Range<usize>, cols: Range<usize>, f: &mut dyn FnMut([usize; 2])) {
        for row in rows {
            for word in cols.start / PAIRS..cols.end.div_ceil(PAIRS) {
                let mut bits = self.words[row * self.of_row + word].load(Ordering::Relaxed);
                while bits != 0 {
                    let col = word * PAIRS + bits.trailing_zeros() as usize;
                    if cols.contains(&col) {
                        f([row, col]);
                    }
                    bits &= bits - 1;
                }
            }
        }
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
            marks.write(row, 0, &[true; 130]);
            let row_of_marks: Vec<_> = (0..130).map(|col| is_marked(row, col)).collect();
            marks.write(row, 0, &row_of_marks);
        }
        for cols in [0..130, 3..129, 64..128, 65..66] {
            let mut found = Vec::new();
            marks.each(0..2, cols.clone(), &mut |pair| found.push(pair));
            assert_eq!(marks.any(0..2, cols.clone()), !found.is_empty());
            let pairs = [0, 1].into_iter().flat_map(|row| cols.clone().map(move |col| [row, col]));
            let expected: Vec<_> = pairs.filter(|[row, col]| is_marked(*row, *col)).collect();
            assert_eq!(found, expected);
        }
    }
}
