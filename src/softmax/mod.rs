//! The softmax of rows of logits: one row, several rows together, and the losses of one class on it.

mod columns;
mod distribution;
mod group;
mod head;
mod row;

pub use columns::ColumnSoftmax;
pub use distribution::{Distribution, DistributionRoom};
pub use group::GroupSoftmax;
pub use head::{Head, IGNORED, Scalars, Slopes, SparseRows};
use row::{Extremes, fill, log_sum_minus, possible, shifted_exp, shifted_exps};
pub use row::{Passed, Pull, Softmax, gap, tempered_exp, through_softmax};
