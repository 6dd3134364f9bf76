//! Powers of two and exponents of `f64`, by their bits: whole exponents are kept as `f64`, so that loops over them and
//! their mantissas become vectors.

/// `2^bits` for whole `bits`: 0 below the range of normal numbers, and 2^1023 above it.
#[inline(always)]
pub fn power_of_two(bits: f64) -> f64 {
    const SHIFT: f64 = (1_u64 << 52) as f64;
    let bits = bits.min(1023.0);
    let power = f64::from_bits((bits.max(-1022.0) + (SHIFT + 1023.0)).to_bits() << 52);
    if bits < -1022.0 { 0.0 } else { power }
}

/// `(m, k)` with `x = m * 2^k` and m in [1, 2), for a positive normal x.
#[inline(always)]
pub fn split(x: f64) -> (f64, f64) {
    const SHIFT: f64 = (1_u64 << 52) as f64;
    const MANTISSA: u64 = (1 << 52) - 1;
    let k = f64::from_bits((x.to_bits() >> 52) | SHIFT.to_bits()) - (SHIFT + 1023.0);
    (f64::from_bits((x.to_bits() & MANTISSA) | 1.0_f64.to_bits()), k)
}
