//! Numbers side by side as the registers that hold them, and back.

use std::arch::x86_64 as arch;
use std::mem;

/// Registers that hold the numbers `N`, and nothing else.
///
/// # Safety
/// Both types have the same size, and any bits are a value of either.
pub(super) unsafe trait Hold<N: Copy>: Copy {}

macro_rules! hold {
    // SAFETY: vendor registers are as many numbers as their name says, all bits of which are in use.
    ($($registers:ty: $numbers:ty;)*) => { $(unsafe impl Hold<$numbers> for $registers {})* };
}

hold! {
    arch::__m128: [f32; 4];
    arch::__m128i: [u16; 8];
    arch::__m256: [f32; 8];
    arch::__m256d: [f64; 4];
    arch::__m256i: [u16; 16];
    arch::__m512: [f32; 16];
    arch::__m512d: [f64; 8];
    [arch::__m128; 4]: [[f32; 4]; 4];
    [arch::__m256d; 2]: [f64; 8];
    [arch::__m256d; 8]: [f64; 32];
    [arch::__m512d; 4]: [f64; 32];
}

/// Numbers in registers.
#[inline(always)]
pub(super) fn registers<N: Copy, R: Hold<N>>(numbers: N) -> R {
    // SAFETY: types of the same size, of which any bits are a value.
    unsafe { mem::transmute_copy(&numbers) }
}

/// The numbers in registers.
#[inline(always)]
pub(super) fn numbers<N: Copy, R: Hold<N>>(registers: R) -> N {
    // SAFETY: as above.
    unsafe { mem::transmute_copy(&registers) }
}
