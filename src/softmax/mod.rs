//! The softmax of rows of logits: one row, several rows together, the columns of many, the frames of a sequence; and the
//! losses of one class or of a distribution on it.

mod columns;
mod distribution;
mod frames;
mod group;
mod head;
mod row;
mod sparse;
mod subnormal;

pub use columns::ColumnSoftmax;
pub use distribution::{Column, Distribution, DistributionRoom, through_softmax};
pub use frames::{FRAMES_TOGETHER, FrameSoftmax};
pub use group::GroupSoftmax;
pub use head::{Head, Scalars, Slopes};
pub use row::{Pull, Softmax, gap, tempered_exp};
use row::{RowExtremes, fill, is_near, log_sum_minus, possible, shifted_exp, shifted_exps};
pub use sparse::{IGNORED, SparseRows};
pub use subnormal::PullFactors;
