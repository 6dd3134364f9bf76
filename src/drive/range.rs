//! Whether numbers are so large or small that single precision has no room for what is made of them.

use crate::array::View;
use crate::num::{Float, Sizes};

/// The extreme sizes of the elements of an array.
pub(crate) fn sizes(view: &View<'_>) -> Sizes<f64> {
    let mut all = Sizes { least: 0.0, most: 0.0, any_sign: false };
    view.each_block(|_, block| {
        let block = f64::sizes(block);
        if all.least == 0.0 || (block.least > 0.0 && block.least < all.least) {
            all.least = block.least;
        }
        all.most = if block.most < all.most { all.most } else { block.most };
        all.any_sign |= block.any_sign;
    });
    all
}

/// Whether factors are so far from 1 that products with them and their sums may leave the range of `f32`.
pub(crate) fn leaves_single(sizes: &Sizes<f64>) -> bool {
    const MOST: f64 = (1_u64 << 63) as f64;
    [sizes.least, sizes.most]
        .iter()
        .any(|size| *size != 0.0 && !(MOST.recip()..=MOST).contains(size))
}
