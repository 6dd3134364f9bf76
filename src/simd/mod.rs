//! Instruction-set levels: detected once, chosen in one place.
//!
//! A kernel is written as plain generic loops over [`crate::math::Real`] and
//! marked `#[inline(always)]`; [`dispatch`] compiles its body once for every level, so that the
//! compiler vectorises it with that level's registers. The type parameter
//! `S: Isa` tells the code whether a fused multiply-add is an instruction.
//! What several kernels need once for a row, a column or a tile is a kernel of its own,
//! which they call by `dispatch(S::LEVEL, ...)` instead of holding a copy each.

mod f64x8;
mod halves;
#[cfg(target_arch = "x86_64")]
mod registers;

pub use f64x8::{F64x8, F64x8Ops, GROUP};
pub use halves::{bf16_of_f32, f16_of_f32, f32_of_bf16, f32_of_f16};
use std::sync::OnceLock;

/// One instruction-set level, as a type, so that generic code is compiled once per level.
pub trait Isa: F64x8Ops + Copy + Send + Sync + 'static {
    /// Whether `mul_add` is one instruction (and rounds once).
    const FMA: bool;
    /// The level as a value, to [`dispatch`] a kernel of its own.
    const LEVEL: Level;
    /// The bytes of a register.
    const REGISTER: usize = 16;

    /// Sum of all chunks; see [`crate::num::Float::sum_chunks`]. A level overrides it where the compiler keeps a running
    /// sum in registers narrower than the level has; the order is the same everywhere. Sums are functions of their own,
    /// which most kernels call.
    #[inline(never)]
    fn sum_f32(chunks: &[[f32; SUM_LANES]]) -> f64 {
        sum_chunks(chunks)
    }
    /// As [`Isa::sum_f32`]; sums of `f32` in f64 lose nothing to speak of.
    #[inline(always)]
    fn sum_f32_and_lost(chunks: &[[f32; SUM_LANES]]) -> (f64, f64) {
        (Self::sum_f32(chunks), 0.0)
    }
    /// As [`Isa::sum_f32`].
    #[inline(never)]
    fn sum_f64(chunks: &[[f64; SUM_LANES]]) -> f64 {
        sum_chunks(chunks)
    }
    /// As [`Isa::sum_f64`], and what its additions rounded off.
    #[inline(never)]
    fn sum_f64_and_lost(chunks: &[[f64; SUM_LANES]]) -> (f64, f64) {
        let (mut lanes, mut lost) = ([0.0; SUM_LANES], [0.0; SUM_LANES]);
        for chunk in chunks {
            for l in 0..SUM_LANES {
                let sum = lanes[l] + chunk[l];
                let added = sum - lanes[l];
                lost[l] += (lanes[l] - (sum - added)) + (chunk[l] - added);
                lanes[l] = sum;
            }
        }
        add_lanes_exactly(lanes, lost)
    }
}

/// Accumulators of a sum.
pub const SUM_LANES: usize = 32;

#[inline(always)]
fn sum_chunks<T: Copy + Into<f64>>(chunks: &[[T; SUM_LANES]]) -> f64 {
    let mut lanes = [0.0; SUM_LANES];
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane += x.into();
        }
    }
    add_lanes(lanes)
}

/// All lanes, a power of two, in one: the upper half onto the lower until one is left.
#[inline(always)]
pub fn fold<T: Copy, const N: usize>(mut lanes: [T; N], f: impl Fn(T, T) -> T) -> T {
    let mut half = N / 2;
    while half > 0 {
        for l in 0..half {
            lanes[l] = f(lanes[l], lanes[l + half]);
        }
        half /= 2;
    }
    lanes[0]
}

/// The sum of lanes, in the order of [`fold`]. It is written out because the compiler keeps lanes that it hands to `fold` in
/// memory.
#[inline(always)]
pub fn add_lanes<const N: usize>(mut lanes: [f64; N]) -> f64 {
    let mut half = N / 2;
    while half > 0 {
        for l in 0..half {
            lanes[l] += lanes[l + half];
        }
        half /= 2;
    }
    lanes[0]
}

/// [`add_lanes`], and what it rounds off added to what the lanes have lost.
pub fn add_lanes_exactly(mut lanes: [f64; SUM_LANES], lost: [f64; SUM_LANES]) -> (f64, f64) {
    let mut lost = add_lanes(lost);
    let mut half = SUM_LANES / 2;
    while half > 0 {
        for l in 0..half {
            let sum = lanes[l] + lanes[l + half];
            let added = sum - lanes[l];
            lost += (lanes[l] - (sum - added)) + (lanes[l + half] - added);
            lanes[l] = sum;
        }
        half /= 2;
    }
    (lanes[0], lost)
}

/// A level as a value, which is there only if this CPU can run it: it comes from [`Level::available`], or from code that
/// runs on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level(Set);

/// An instruction set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(any(not(target_arch = "x86_64"), rustloss_two_levels), allow(dead_code))]
enum Set {
    /// The baseline of the target (SSE2 on x86-64).
    Baseline,
    /// AVX2 with FMA, F16C and BMI.
    Avx2,
    /// AVX-512 F, VL, BW, DQ, CD.
    Avx512,
    /// NEON, the baseline of aarch64.
    Neon,
}

/// Every set of this build, weakest first. Builds for work on the code leave one out: each takes its time.
const BUILT: &[Set] = if cfg!(target_arch = "aarch64") {
    &[Set::Neon]
} else if cfg!(all(target_arch = "x86_64", rustloss_two_levels)) {
    &[Set::Baseline, Set::Avx2]
} else if cfg!(target_arch = "x86_64") {
    &[Set::Baseline, Set::Avx2, Set::Avx512]
} else {
    &[Set::Baseline]
};

/// The names of the levels of this build that the project's tests have not run on.
#[cfg(feature = "python")]
pub fn untested() -> impl Iterator<Item = &'static str> {
    BUILT.iter().filter(|set| **set == Set::Neon).map(|set| set.name())
}

impl Level {
    /// The levels that this CPU can run, weakest first.
    pub fn available() -> impl DoubleEndedIterator<Item = Level> + Clone {
        BUILT.iter().filter(|set| set.is_available()).map(|&set| Level(set))
    }

    /// The name that `RUSTLOSS_ISA` takes and `show_config` prints.
    pub fn name(self) -> &'static str {
        self.0.name()
    }

    /// The level in use, or the baseline if none can be.
    pub fn in_use() -> Level {
        level().unwrap_or(Level(BUILT[0]))
    }
}

impl Set {
    fn name(self) -> &'static str {
        match self {
            Set::Baseline if cfg!(target_arch = "x86_64") => "sse2",
            Set::Baseline => "baseline",
            Set::Avx2 => "avx2",
            Set::Avx512 => "avx512",
            Set::Neon => "neon",
        }
    }

    fn is_available(self) -> bool {
        match self {
            Set::Baseline => !cfg!(target_arch = "aarch64"),
            Set::Neon => cfg!(target_arch = "aarch64"),
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
                    && is_x86_feature_detected!("bmi1")
                    && is_x86_feature_detected!("bmi2")
                    && is_x86_feature_detected!("lzcnt")
                    && is_x86_feature_detected!("popcnt")
            }
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => {
                Set::Avx2.is_available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512cd")
            }
            #[cfg(not(target_arch = "x86_64"))]
            _ => false,
        }
    }
}

/// The level in use: the best available one, or the one that the environment variable `RUSTLOSS_ISA` names; an
/// empty one is as none.
///
/// # Errors
/// The text of a message if `RUSTLOSS_ISA` names no level of this CPU.
#[expect(clippy::disallowed_methods, reason = "a few names")]
pub fn level() -> Result<Level, String> {
    static LEVEL: OnceLock<Result<Level, String>> = OnceLock::new();
    LEVEL
        .get_or_init(|| {
            let mut available = Level::available();
            match std::env::var("RUSTLOSS_ISA").unwrap_or_default() {
                // Each target has one that all its CPUs can run.
                name if name.is_empty() => Ok(available.next_back().unwrap_or(Level(BUILT[0]))),
                name => available.clone().find(|l| l.name() == name).ok_or_else(|| {
                    let names: Vec<_> = available.map(Level::name).collect();
                    format!("RUSTLOSS_ISA: expected one of {names:?} on this CPU, got {name:?}")
                }),
            }
        })
        .clone()
}

/// Work that [`dispatch`] compiles for every level, once for all who ask for it. `run` must be `#[inline(always)]`.
pub trait Kernel {
    /// What the work returns.
    type Output;
    /// The work.
    fn run<S: Isa>(self) -> Self::Output;
}

/// What the target guarantees.
#[derive(Clone, Copy)]
pub struct Baseline;

impl Isa for Baseline {
    const FMA: bool = cfg!(target_arch = "aarch64");
    const LEVEL: Level = Level(BUILT[0]);
}

#[cfg(target_arch = "x86_64")]
#[cfg_attr(rustloss_two_levels, allow(dead_code))]
mod x86 {
    use super::registers::{numbers, registers};
    use super::{Isa, Kernel, Level, SUM_LANES, Set};
    use std::arch::x86_64 as arch;

    /// A level as a type, and the shell that compiles kernels for it.
    macro_rules! level {
        ($name:ident, $doc:literal, $shell:ident, $features:literal, { $($body:tt)* }) => {
            #[doc = $doc]
            #[derive(Clone, Copy)]
            pub struct $name;

            impl Isa for $name {
                const LEVEL: Level = Level(Set::$name);
                $($body)*
            }

            #[inline(never)]
            #[target_feature(enable = $features)]
            pub(super) fn $shell<K: Kernel>(kernel: K) -> K::Output {
                kernel.run::<$name>()
            }
        };
    }

    /// The sums of a level whose registers hold `$width` f64: `$load` fills one with as many f32, `$last` adds one up.
    macro_rules! sums {
        ($features:literal, $width:literal, $register:ident, $zero:ident, $add:ident, $sub:ident, $last:ident, $load:expr) => {
            const FMA: bool = true;
            const REGISTER: usize = $width * size_of::<f64>();

            #[inline(always)]
            fn sum_f32(chunks: &[[f32; SUM_LANES]]) -> f64 {
                sums!(@plain $features, $width, $zero, $add, $last, f32, $load, chunks)
            }

            #[inline(always)]
            fn sum_f64(chunks: &[[f64; SUM_LANES]]) -> f64 {
                sums!(@plain $features, $width, $zero, $add, $last, f64, |x| registers(x), chunks)
            }

            #[inline(always)]
            fn sum_f64_and_lost(chunks: &[[f64; SUM_LANES]]) -> (f64, f64) {
                sums!(@on $features, chunks: &[[f64; SUM_LANES]], (f64, f64), {
                    let mut sums = [arch::$zero(); SUM_LANES / $width];
                    let mut lost = sums;
                    for chunk in chunks {
                        for (i, &x) in chunk.as_chunks::<$width>().0.iter().enumerate() {
                            let x: arch::$register = registers(x);
                            let sum = arch::$add(sums[i], x);
                            let added = arch::$sub(sum, sums[i]);
                            let old = arch::$sub(sums[i], arch::$sub(sum, added));
                            lost[i] = arch::$add(lost[i], arch::$add(old, arch::$sub(x, added)));
                            sums[i] = sum;
                        }
                    }
                    super::add_lanes_exactly(numbers(sums), numbers(lost))
                })
            }
        };
        (@on $features:literal, $chunks:ident: $type:ty, $sum:ty, $body:block) => {{
            #[inline(never)]
            #[target_feature(enable = $features)]
            fn sum($chunks: $type) -> $sum $body
            // SAFETY: code that names this level runs in its shell only, where the features are there.
            unsafe { sum($chunks) }
        }};
        (@plain $features:literal, $width:literal, $zero:ident, $add:ident, $last:ident, $t:ty, $load:expr, $chunks:ident) => {
            sums!(@on $features, $chunks: &[[$t; SUM_LANES]], f64, {
                let mut sums = [arch::$zero(); SUM_LANES / $width];
                let load = $load;
                for chunk in $chunks {
                    for (sum, &x) in sums.iter_mut().zip(chunk.as_chunks::<$width>().0) {
                        *sum = arch::$add(*sum, load(x));
                    }
                }
                sums!(@lanes $add, $last, sums)
            })
        };
        (@lanes $add:ident, $last:ident, $sums:ident) => {{
            let mut half = $sums.len() / 2;
            while half > 0 {
                for i in 0..half {
                    $sums[i] = arch::$add($sums[i], $sums[i + half]);
                }
                half /= 2;
            }
            $last($sums[0])
        }};
    }

    #[target_feature(enable = "avx2")]
    fn last_avx2(sum: arch::__m256d) -> f64 {
        let pair = arch::_mm_add_pd(
            arch::_mm256_castpd256_pd128(sum),
            arch::_mm256_extractf128_pd::<1>(sum),
        );
        arch::_mm_cvtsd_f64(arch::_mm_add_sd(pair, arch::_mm_unpackhi_pd(pair, pair)))
    }

    #[target_feature(enable = "avx512f,avx2")]
    fn last_avx512(sum: arch::__m512d) -> f64 {
        last_avx2(arch::_mm256_add_pd(
            arch::_mm512_castpd512_pd256(sum),
            arch::_mm512_extractf64x4_pd::<1>(sum),
        ))
    }

    level!(Avx2, "The level `Avx2`.", avx2, "avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt", {
        sums!(
            "avx2",
            4,
            __m256d,
            _mm256_setzero_pd,
            _mm256_add_pd,
            _mm256_sub_pd,
            last_avx2,
            |x: [f32; 4]| arch::_mm256_cvtps_pd(registers(x))
        );
    });

    level!(
        Avx512,
        "The level `Avx512`.",
        avx512,
        "avx512f,avx512vl,avx512bw,avx512dq,avx512cd,avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt",
        {
            sums!(
                "avx512f,avx2",
                8,
                __m512d,
                _mm512_setzero_pd,
                _mm512_add_pd,
                _mm512_sub_pd,
                last_avx512,
                |x: [f32; 8]| arch::_mm512_cvtps_pd(registers(x))
            );
        }
    );
}

/// Element (i, j) to (j, i). What the compiler makes of it by itself moves single elements.
#[inline(always)]
pub(crate) fn transpose_f32(block: [[f32; 4]; 4]) -> [[f32; 4]; 4] {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64 as arch;
        let [a, b, c, d]: [arch::__m128; 4] = registers::registers(block);
        // SAFETY: every x86-64 has SSE.
        let columns = unsafe {
            let (low, high) = (arch::_mm_unpacklo_ps(a, b), arch::_mm_unpackhi_ps(a, b));
            let (low_2, high_2) = (arch::_mm_unpacklo_ps(c, d), arch::_mm_unpackhi_ps(c, d));
            [
                arch::_mm_movelh_ps(low, low_2),
                arch::_mm_movehl_ps(low_2, low),
                arch::_mm_movelh_ps(high, high_2),
                arch::_mm_movehl_ps(high_2, high),
            ]
        };
        registers::numbers(columns)
    }
    #[cfg(not(target_arch = "x86_64"))]
    std::array::from_fn(|i| std::array::from_fn(|j| block[j][i]))
}

/// Element (i, j) to (j, i).
#[inline(always)]
pub(crate) fn transpose_f64(block: [[f64; 4]; 4]) -> [[f64; 4]; 4] {
    std::array::from_fn(|i| std::array::from_fn(|j| block[j][i]))
}

/// Runs `kernel` compiled for `level`, as a function that is never part of another.
#[inline(always)]
pub fn dispatch<K: Kernel>(level: Level, kernel: K) -> K::Output {
    #[cfg(target_arch = "x86_64")]
    macro_rules! shell {
        ($shell:ident) => {
            // SAFETY: a `Level` comes from `Level::available`, which asked this CPU, or from an `S` of code in a shell, as no
            // other code can name one but the baseline.
            unsafe { x86::$shell(kernel) }
        };
    }
    match level.0 {
        #[cfg(target_arch = "x86_64")]
        Set::Avx2 => shell!(avx2),
        #[cfg(all(target_arch = "x86_64", not(rustloss_two_levels)))]
        Set::Avx512 => shell!(avx512),
        _ => baseline(kernel),
    }
}

#[inline(never)]
fn baseline<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<Baseline>()
}
