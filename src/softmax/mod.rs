//! The softmax of rows of logits: one row, several rows together, the columns of many, the frames of a sequence; and the
//! losses of one class or of a distribution on it.

mod columns;
mod distribution;
mod frames;
mod group;
mod head;
mod row;

pub use columns::ColumnSoftmax;
pub use distribution::{Column, Distribution, DistributionRoom};
pub use frames::{FRAMES_TOGETHER, FrameSoftmax};
pub use group::GroupSoftmax;
pub use head::{Head, IGNORED, Scalars, Slopes, SparseRows};
pub use row::{Passed, Pull, Softmax, gap, tempered_exp, through_softmax};
use row::{RowExtremes, fill, log_sum_minus, possible, shifted_exp, shifted_exps};
