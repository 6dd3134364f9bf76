//! Runs of half-precision numbers to and from single precision, rounded to nearest even.

use super::{Isa, Kernel, Level, dispatch};
use half::{bf16, f16};

/// `float16` to `float32`.
pub fn f32_of_f16(from: &[f16], to: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if let Some(widen) = x86::widening(Level::in_use()) {
        return widen.run(from, to);
    }
    for (x, y) in from.iter().zip(to) {
        *y = x.to_f32();
    }
}

/// `float32` to `float16`.
pub fn f16_of_f32(from: &[f32], to: &mut [f16]) {
    #[cfg(target_arch = "x86_64")]
    if let Some(narrow) = x86::narrowing(Level::in_use()) {
        return narrow.run(from, to);
    }
    for (x, y) in from.iter().zip(to) {
        *y = f16::from_f32(*x);
    }
}

/// `bfloat16` to `float32`.
pub fn f32_of_bf16(from: &[bf16], to: &mut [f32]) {
    dispatch(Level::in_use(), WidenBf16 { from, to });
}

/// `float32` to `bfloat16`.
pub fn bf16_of_f32(from: &[f32], to: &mut [bf16]) {
    dispatch(Level::in_use(), NarrowToBf16 { from, to });
}

struct WidenBf16<'a> {
    from: &'a [bf16],
    to: &'a mut [f32],
}

impl Kernel for WidenBf16<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Isa>(self) {
        for (x, y) in self.from.iter().zip(self.to) {
            *y = f32::from_bits(u32::from(x.to_bits()) << 16);
        }
    }
}

struct NarrowToBf16<'a> {
    from: &'a [f32],
    to: &'a mut [bf16],
}

impl Kernel for NarrowToBf16<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Isa>(self) {
        for (x, y) in self.from.iter().zip(self.to) {
            let bits = x.to_bits();
            let rounded = bits.wrapping_add(0x7FFF + (bits >> 16 & 1)) >> 16;
            let quiet = bits >> 16 | 0x40;
            *y = bf16::from_bits(if x.is_nan() { quiet } else { rounded } as u16);
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use crate::simd::registers::{numbers, registers};
    use crate::simd::{Level, Set};
    use half::f16;
    use std::arch::x86_64 as arch;

    const NEAREST: i32 = arch::_MM_FROUND_TO_NEAREST_INT;

    /// A conversion that this CPU has the instructions for.
    pub(super) struct Conversion<A, B>(unsafe fn(&[A], &mut [B]));

    impl<A, B> Conversion<A, B> {
        pub fn run(self, from: &[A], to: &mut [B]) {
            // SAFETY: as the type says; what makes one has asked for the level.
            unsafe { (self.0)(from, to) }
        }
    }

    pub(super) fn widening(level: Level) -> Option<Conversion<f16, f32>> {
        match level.0 {
            Set::Avx512 => Some(Conversion(f32_of_16_f16)),
            Set::Avx2 => Some(Conversion(f32_of_8_f16)),
            Set::Baseline | Set::Neon => None,
        }
    }

    pub(super) fn narrowing(level: Level) -> Option<Conversion<f32, f16>> {
        match level.0 {
            Set::Avx512 => Some(Conversion(f16_of_16_f32)),
            Set::Avx2 => Some(Conversion(f16_of_8_f32)),
            Set::Baseline | Set::Neon => None,
        }
    }

    /// Conversions of as many numbers at once as a register holds.
    macro_rules! conversions {
        ($features:literal, $lanes:literal, $widen:ident $widen_by:ident, $narrow:ident $narrow_by:ident) => {
            #[target_feature(enable = $features)]
            fn $widen(from: &[f16], to: &mut [f32]) {
                let widened = |x: &[f16; $lanes]| -> [f32; $lanes] {
                    numbers(arch::$widen_by(registers(x.map(f16::to_bits))))
                };
                let ((from, rest), (to, rest_to)) = (from.as_chunks(), to.as_chunks_mut());
                for (x, y) in from.iter().zip(to) {
                    *y = widened(x);
                }
                if !rest.is_empty() {
                    let mut last = [f16::ZERO; $lanes];
                    last[..rest.len()].copy_from_slice(rest);
                    rest_to.copy_from_slice(&widened(&last)[..rest.len()]);
                }
            }

            #[target_feature(enable = $features)]
            fn $narrow(from: &[f32], to: &mut [f16]) {
                let narrowed = |x: &[f32; $lanes]| -> [f16; $lanes] {
                    let bits: [u16; $lanes] = numbers(arch::$narrow_by::<NEAREST>(registers(*x)));
                    bits.map(f16::from_bits)
                };
                let ((from, rest), (to, rest_to)) = (from.as_chunks(), to.as_chunks_mut());
                for (x, y) in from.iter().zip(to) {
                    *y = narrowed(x);
                }
                if !rest.is_empty() {
                    let mut last = [0.0; $lanes];
                    last[..rest.len()].copy_from_slice(rest);
                    rest_to.copy_from_slice(&narrowed(&last)[..rest.len()]);
                }
            }
        };
    }

    conversions!("avx,f16c", 8, f32_of_8_f16 _mm256_cvtph_ps, f16_of_8_f32 _mm256_cvtps_ph);
    conversions!("avx512f", 16, f32_of_16_f16 _mm512_cvtph_ps, f16_of_16_f32 _mm512_cvtps_ph);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers next to every half number and to every middle of two, of either type, and NaNs.
    fn singles() -> Vec<f32> {
        let halves = (0..=u16::MAX).flat_map(|bits| {
            let wide = f16::from_bits(bits).to_f32().to_bits();
            let brain = u32::from(bits) << 16;
            let near = |bits: u32, step: u32| [bits, bits.wrapping_sub(1), bits + 1, bits ^ step];
            near(wide, 0x1000).into_iter().chain(near(brain, 0x8000)).chain(near(brain | 0x8000, 1))
        });
        halves.map(f32::from_bits).collect()
    }

    #[test]
    fn runs_are_converted_as_single_numbers_are() {
        let bits: Vec<u16> = (0..=u16::MAX).collect();
        let (sixteen, brain): (Vec<f16>, Vec<bf16>) =
            bits.iter().map(|&b| (f16::from_bits(b), bf16::from_bits(b))).unzip();
        let mut wide = vec![0.0; bits.len()];
        let same = |a: f32, b: f32| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
        f32_of_f16(&sixteen, &mut wide);
        assert!(wide.iter().zip(&sixteen).all(|(y, x)| same(*y, x.to_f32())));
        f32_of_bf16(&brain, &mut wide);
        assert!(wide.iter().zip(&brain).all(|(y, x)| same(*y, x.to_f32())));

        let singles = singles();
        let mut narrow = vec![f16::ZERO; singles.len()];
        f16_of_f32(&singles, &mut narrow);
        for (y, x) in narrow.iter().zip(&singles) {
            assert_eq!(y.to_bits(), f16::from_f32(*x).to_bits(), "{x:e}");
        }
        let mut narrow = vec![bf16::ZERO; singles.len()];
        bf16_of_f32(&singles, &mut narrow);
        for (y, x) in narrow.iter().zip(&singles) {
            assert_eq!(y.to_bits(), bf16::from_f32(*x).to_bits(), "{x:e}");
        }
        for len in 0..20 {
            let mut some = vec![f16::ONE; len];
            f16_of_f32(&singles[1 << 18..][..len], &mut some);
            assert!(some.iter().zip(&singles[1 << 18..]).all(|(y, x)| *y == f16::from_f32(*x)));
            let mut some = vec![1.0; len];
            f32_of_f16(&sixteen[1 << 13..][..len], &mut some);
            assert!(some.iter().zip(&sixteen[1 << 13..]).all(|(y, x)| *y == x.to_f32()));
        }
    }
}
