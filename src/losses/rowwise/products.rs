//! Sums of products of two vectors, and of many pairs of vectors side by side.

use crate::error::Result;
use crate::math::Real;
use crate::memory;
use crate::num::{DType, Float, Scalar, two_product, two_sum};
use crate::simd::{Isa, add_lanes};

/// Longest run whose products are summed at once.
const PRODUCTS: usize = 256;

/// Sums of products side by side.
const PRODUCT_LANES: usize = 16;

/// Sums of products of two vectors.
#[derive(Clone, Copy)]
pub(super) struct Products<W> {
    pub uv: W,
    pub uu: W,
    pub vv: W,
}

impl<W: Scalar> Products<W> {
    #[inline(always)]
    pub fn of<S: Isa, T: Real>(u: &[T], v: &[T], scales: [f64; 2]) -> Self {
        let mut sums = [[0.0; 2]; 3];
        for (u, v) in u.chunks(PRODUCTS).zip(v.chunks(PRODUCTS)) {
            for (sum, part) in sums.iter_mut().zip(of_block::<S, T>(u, v, scales)) {
                let [total, rounded] = two_sum(sum[0], part[0]);
                *sum = [total, sum[1] + (part[1] + rounded)];
            }
        }
        Self::of_sums(sums)
    }

    /// From sums and what they have lost.
    #[inline(always)]
    fn of_sums(sums: [[f64; 2]; 3]) -> Self {
        let [uv, uu, vv] =
            sums.map(|[sum, lost]| W::of(sum, if lost.is_nan() { 0.0 } else { lost }));
        Products { uv, uu, vv }
    }
}

/// [`Products`] of many pairs of vectors side by side, summed in the same order.
#[derive(std::default::Default)]
pub(super) struct ColumnProducts {
    pairs: usize,
    /// Whether what products and additions round off is kept.
    exact: bool,
    /// Elements of a vector that are still to come.
    left: usize,
    /// Elements so far of the block that is summed at once.
    at: usize,
    /// Lane by lane, sum by sum, and behind them what fills no lanes: all pairs of each.
    lanes: Vec<f64>,
    /// What they have lost.
    lost: Vec<f64>,
    /// The sums of blocks, and what they have lost.
    sums: Vec<[[f64; 2]; 3]>,
}

impl ColumnProducts {
    /// For pairs of vectors of `len` elements.
    pub fn start(&mut self, len: usize, pairs: usize, exact: bool) -> Result<()> {
        (self.pairs, self.exact, self.left, self.at) = (pairs, exact, len, 0);
        let room = 3 * (PRODUCT_LANES + 1) * pairs;
        for (numbers, len) in [(&mut self.lanes, room), (&mut self.lost, room * usize::from(exact))]
        {
            numbers.clear();
            memory::grow(numbers, len, 0.0)?;
        }
        self.sums.clear();
        memory::grow(&mut self.sums, pairs, [[0.0; 2]; 3])
    }

    /// The next element of each vector.
    #[inline(always)]
    pub fn add<S: Isa, T: Real>(&mut self, u: &[T], v: &[T]) {
        let pairs = self.pairs;
        let len = PRODUCTS.min(self.at + self.left);
        let fills = self.exact || self.at < len - len % PRODUCT_LANES;
        let lane = if fills { self.at % PRODUCT_LANES } else { PRODUCT_LANES };
        let of_lane = 3 * lane * pairs..3 * (lane + 1) * pairs;
        let (uv, rest) = self.lanes[of_lane.clone()].split_at_mut(pairs);
        let (uu, vv) = rest.split_at_mut(pairs);
        if self.exact {
            let lost = self.lost[of_lane].chunks_exact_mut(pairs);
            for ((sums, lost), [a, b]) in
                [uv, uu, vv].into_iter().zip(lost).zip([[u, v], [u, u], [v, v]])
            {
                for (((sum, lost), a), b) in sums.iter_mut().zip(lost).zip(a).zip(b) {
                    (*sum, *lost) = add::<S>(*sum, *lost, a.to_f64(), b.to_f64());
                }
            }
        } else {
            for ((((uv, uu), vv), &u), &v) in uv.iter_mut().zip(uu).zip(vv).zip(u).zip(v) {
                let (u, v) = (u.to_f64(), v.to_f64());
                *uv = Float::mul_add::<S>(u, v, *uv);
                *uu = Float::mul_add::<S>(u, u, *uu);
                *vv = Float::mul_add::<S>(v, v, *vv);
            }
        }
        self.left -= 1;
        self.at += 1;
        if self.at == len {
            self.finish();
        }
    }

    /// Adds the sums of a block to those of the blocks before, all pairs at once: the lanes of one pair lie pages apart.
    fn finish(&mut self) {
        let pairs = self.pairs;
        let (lanes, rest) = self.lanes.split_at_mut(3 * PRODUCT_LANES * pairs);
        let mut half = PRODUCT_LANES / 2;
        while half > 0 {
            let (sums, others) = lanes.split_at_mut(3 * half * pairs);
            if self.exact {
                let (lost, lost_of_others) = self.lost.split_at_mut(3 * half * pairs);
                let others = others.iter().zip(lost_of_others);
                for ((sum, lost), (x, lost_of_x)) in sums.iter_mut().zip(lost).zip(others) {
                    let [total, rounded] = two_sum(*sum, *x);
                    *sum = total;
                    *lost += *lost_of_x + rounded;
                }
            } else {
                for (sum, x) in sums.iter_mut().zip(others) {
                    *sum += *x;
                }
            }
            half /= 2;
        }
        for (r, sums) in self.sums.iter_mut().enumerate() {
            for (of, sum) in sums.iter_mut().enumerate() {
                let at = of * pairs + r;
                let part = if self.exact {
                    [lanes[at], self.lost[at]]
                } else {
                    [lanes[at] + rest[at], 0.0]
                };
                let [total, rounded] = two_sum(sum[0], part[0]);
                *sum = [total, sum[1] + (part[1] + rounded)];
            }
        }
        self.lanes.fill(0.0);
        self.lost.fill(0.0);
        self.at = 0;
    }

    /// The sums of a pair.
    pub fn total<W: Scalar>(&self, pair: usize) -> Products<W> {
        Products::of_sums(self.sums[pair])
    }
}

/// The sums of u v, u u and v v, and what they have lost to rounding where that can be seen.
#[inline(always)]
fn of_block<S: Isa, T: Real>(u: &[T], v: &[T], scales: [f64; 2]) -> [[f64; 2]; 3] {
    if T::DTYPE == DType::F32 {
        of_block_fast::<S, T>(u, v, scales).map(|sum| [sum, 0.0])
    } else {
        of_block_exactly::<S, T>(u, v, scales)
    }
}

/// The sums alone, of products that are exact.
#[inline(always)]
fn of_block_fast<S: Isa, T: Real>(u: &[T], v: &[T], [of_u, of_v]: [f64; 2]) -> [f64; 3] {
    let ((u, u_rest), (v, v_rest)) =
        (u.as_chunks::<PRODUCT_LANES>(), v.as_chunks::<PRODUCT_LANES>());
    let [mut uv, mut uu, mut vv] = [[0.0; PRODUCT_LANES]; 3];
    for (u, v) in u.iter().zip(v) {
        for l in 0..PRODUCT_LANES {
            let (u, v) = (u[l].to_f64() * of_u, v[l].to_f64() * of_v);
            uv[l] = Float::mul_add::<S>(u, v, uv[l]);
            uu[l] = Float::mul_add::<S>(u, u, uu[l]);
            vv[l] = Float::mul_add::<S>(v, v, vv[l]);
        }
    }
    let [mut uv_rest, mut uu_rest, mut vv_rest] = [0.0; 3];
    for (u, v) in u_rest.iter().zip(v_rest) {
        let (u, v) = (u.to_f64() * of_u, v.to_f64() * of_v);
        uv_rest += u * v;
        uu_rest += u * u;
        vv_rest += v * v;
    }
    [add_lanes(uv) + uv_rest, add_lanes(uu) + uu_rest, add_lanes(vv) + vv_rest]
}

/// The sums, each with what products and additions round off.
#[inline(always)]
fn of_block_exactly<S: Isa, T: Real>(u: &[T], v: &[T], [of_u, of_v]: [f64; 2]) -> [[f64; 2]; 3] {
    let ((u, u_rest), (v, v_rest)) =
        (u.as_chunks::<PRODUCT_LANES>(), v.as_chunks::<PRODUCT_LANES>());
    let [mut uv, mut uu, mut vv] = [[0.0; PRODUCT_LANES]; 3];
    let [mut uv_lost, mut uu_lost, mut vv_lost] = [[0.0; PRODUCT_LANES]; 3];
    for (u, v) in u.iter().zip(v) {
        for l in 0..PRODUCT_LANES {
            let (u, v) = (u[l].to_f64() * of_u, v[l].to_f64() * of_v);
            (uv[l], uv_lost[l]) = add::<S>(uv[l], uv_lost[l], u, v);
            (uu[l], uu_lost[l]) = add::<S>(uu[l], uu_lost[l], u, u);
            (vv[l], vv_lost[l]) = add::<S>(vv[l], vv_lost[l], v, v);
        }
    }
    for (l, (u, v)) in u_rest.iter().zip(v_rest).enumerate() {
        let (u, v) = (u.to_f64() * of_u, v.to_f64() * of_v);
        (uv[l], uv_lost[l]) = add::<S>(uv[l], uv_lost[l], u, v);
        (uu[l], uu_lost[l]) = add::<S>(uu[l], uu_lost[l], u, u);
        (vv[l], vv_lost[l]) = add::<S>(vv[l], vv_lost[l], v, v);
    }
    [fold_exactly(uv, uv_lost), fold_exactly(uu, uu_lost), fold_exactly(vv, vv_lost)]
}

/// The sum of all lanes, and what the lanes and their additions have lost.
#[inline(always)]
fn fold_exactly(mut sums: [f64; PRODUCT_LANES], mut lost: [f64; PRODUCT_LANES]) -> [f64; 2] {
    let mut half = PRODUCT_LANES / 2;
    while half > 0 {
        for l in 0..half {
            let [sum, rounded] = two_sum(sums[l], sums[l + half]);
            sums[l] = sum;
            lost[l] += lost[l + half] + rounded;
        }
        half /= 2;
    }
    [sums[0], lost[0]]
}

/// Adds a product to a sum, and what both round off to what the sum has lost.
#[inline(always)]
fn add<S: Isa>(sum: f64, lost: f64, a: f64, b: f64) -> (f64, f64) {
    let [product, error] = two_product::<S>(a, b);
    let [new, rounded] = two_sum(sum, product);
    (new, lost + (error + rounded))
}
