//! The softmax of rows of logits: one row, several rows together, the frames of a sequence, the columns of many; and the
//! losses of one class or of a distribution on it.

mod columns;
mod distribution;
mod extremes;
mod group;
mod head;
mod row;
mod sparse;
mod subnormal;
mod sums;

pub use columns::ColumnSoftmax;
pub use distribution::{Column, Distribution, DistributionRoom, through_softmax};
pub use group::{FRAMES_TOGETHER, FrameSoftmax, GroupSoftmax};
pub use head::{Head, Scalars, Slopes};
pub use row::{Pull, Softmax, gap, tempered_exp};
use row::{is_near, log_sum_minus, possible, shifted_exp};
pub use sparse::{IGNORED, SparseRows};
pub use subnormal::PullFactors;
