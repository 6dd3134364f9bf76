//! Instruction-set levels: detected once, chosen in one place.
//!
//! A kernel is written as plain generic loops over [`crate::math::Real`] and
//! marked `#[inline(always)]`; [`dispatch`] compiles its body once for every level, so that the
//! compiler vectorises it with that level's registers. The type parameter
//! `S: Isa` tells the code whether a fused multiply-add is an instruction.

mod f64x8;

pub use f64x8::{F64x8, F64x8Ops};
use std::sync::OnceLock;

/// One instruction-set level, as a type, so that generic code is compiled once per level.
pub trait Isa: F64x8Ops + Copy + Send + Sync + 'static {
    /// Whether `mul_add` is one instruction (and rounds once).
    const FMA: bool;
    /// The bytes of a register.
    const REGISTER: usize = 16;

    /// Sum of all chunks; see [`crate::num::Float::sum_chunks`]. A level overrides it where the compiler keeps a running
    /// sum in registers narrower than the level has; the order is the same everywhere.
    #[inline(always)]
    fn sum_f32(chunks: &[[f32; SUM_LANES]]) -> f64 {
        sum_chunks(chunks)
    }
    /// As [`Isa::sum_f32`]; sums of `f32` in f64 lose nothing to speak of.
    #[inline(always)]
    fn sum_f32_and_lost(chunks: &[[f32; SUM_LANES]]) -> (f64, f64) {
        (Self::sum_f32(chunks), 0.0)
    }
    /// As [`Isa::sum_f32`].
    #[inline(always)]
    fn sum_f64(chunks: &[[f64; SUM_LANES]]) -> f64 {
        sum_chunks(chunks)
    }
    /// As [`Isa::sum_f64`], and what its additions rounded off.
    #[inline(always)]
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

#[inline(always)]
fn add_lanes(mut lanes: [f64; SUM_LANES]) -> f64 {
    let mut half = SUM_LANES / 2;
    while half > 0 {
        for l in 0..half {
            lanes[l] += lanes[l + half];
        }
        half /= 2;
    }
    lanes[0]
}

/// [`add_lanes`], and what it rounds off added to what the lanes have lost.
fn add_lanes_exactly(mut lanes: [f64; SUM_LANES], lost: [f64; SUM_LANES]) -> (f64, f64) {
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

/// A level as a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// The baseline of the target (SSE2 on x86-64).
    Baseline,
    /// SSE4.2.
    Sse42,
    /// AVX2 with FMA, F16C and BMI.
    Avx2,
    /// AVX-512 F, VL, BW, DQ, CD.
    Avx512,
    /// NEON, the baseline of aarch64.
    Neon,
}

impl Level {
    /// Every level of this build, weakest first. Builds for work on the code leave two levels out: each takes its time.
    pub const ALL: &'static [Level] = if cfg!(target_arch = "aarch64") {
        &[Level::Neon]
    } else if cfg!(all(target_arch = "x86_64", rustloss_two_levels)) {
        &[Level::Baseline, Level::Avx2]
    } else if cfg!(target_arch = "x86_64") {
        &[Level::Baseline, Level::Sse42, Level::Avx2, Level::Avx512]
    } else {
        &[Level::Baseline]
    };

    /// The name that `RUSTLOSS_ISA` takes and `show_config` prints.
    pub fn name(self) -> &'static str {
        match self {
            Level::Baseline if cfg!(target_arch = "x86_64") => "sse2",
            Level::Baseline => "baseline",
            Level::Sse42 => "sse4.2",
            Level::Avx2 => "avx2",
            Level::Avx512 => "avx512",
            Level::Neon => "neon",
        }
    }

    /// Whether the project's tests have run on this level.
    pub fn tested(self) -> bool {
        self != Level::Neon
    }

    /// Whether this CPU can run the level.
    pub fn available(self) -> bool {
        match self {
            Level::Baseline => !cfg!(target_arch = "aarch64"),
            Level::Neon => cfg!(target_arch = "aarch64"),
            #[cfg(target_arch = "x86_64")]
            Level::Sse42 => is_x86_feature_detected!("sse4.2"),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
                    && is_x86_feature_detected!("bmi2")
            }
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => {
                Level::Avx2.available()
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
#[allow(clippy::disallowed_methods, reason = "a few names")]
pub fn level() -> Result<Level, String> {
    static LEVEL: OnceLock<Result<Level, String>> = OnceLock::new();
    LEVEL
        .get_or_init(|| {
            let mut available = Level::ALL.iter().copied().filter(|l| l.available());
            match std::env::var("RUSTLOSS_ISA").unwrap_or_default() {
                name if name.is_empty() => Ok(available.next_back().unwrap_or(Level::Baseline)),
                name => available.clone().find(|l| l.name() == name).ok_or_else(|| {
                    let names: Vec<_> = available.map(Level::name).collect();
                    format!("RUSTLOSS_ISA: expected one of {names:?} on this CPU, got {name:?}")
                }),
            }
        })
        .clone()
}

/// Work that [`dispatch`] compiles for every level. `run` must be `#[inline(always)]`.
pub trait Kernel {
    /// What the work returns.
    type Output;
    /// The work.
    fn run<S: Isa>(self) -> Self::Output;
}

/// [`Level::Baseline`] and [`Level::Neon`]: what the target guarantees.
#[derive(Clone, Copy)]
pub struct Baseline;

impl Isa for Baseline {
    const FMA: bool = cfg!(target_arch = "aarch64");
}

#[cfg(target_arch = "x86_64")]
#[cfg_attr(rustloss_two_levels, allow(dead_code))]
mod x86 {
    use super::{Isa, Kernel, SUM_LANES};
    use std::arch::x86_64 as arch;

    /// A level as a type, and the shell that compiles kernels for it.
    macro_rules! level {
        ($name:ident, $doc:literal, $shell:ident, $features:literal, { $($body:tt)* }) => {
            #[doc = $doc]
            #[derive(Clone, Copy)]
            pub struct $name;

            impl Isa for $name {
                $($body)*
            }

            #[target_feature(enable = $features)]
            pub(super) fn $shell<K: Kernel>(kernel: K) -> K::Output {
                kernel.run::<$name>()
            }
        };
    }

    /// The sums of a level whose registers hold `$width` f64: `$load` and `$load_f64` fill one, `$last` adds one up.
    macro_rules! sums {
        ($features:literal, $width:literal, $register:ident, $zero:ident, $add:ident, $sub:ident, $last:ident, $load:expr, $load_f64:expr) => {
            const FMA: bool = true;
            const REGISTER: usize = $width * size_of::<f64>();

            #[inline(always)]
            fn sum_f32(chunks: &[[f32; SUM_LANES]]) -> f64 {
                sums!(@plain $features, $width, $zero, $add, $last, f32, $load, chunks)
            }

            #[inline(always)]
            fn sum_f64(chunks: &[[f64; SUM_LANES]]) -> f64 {
                sums!(@plain $features, $width, $zero, $add, $last, f64, $load_f64, chunks)
            }

            #[inline(always)]
            fn sum_f64_and_lost(chunks: &[[f64; SUM_LANES]]) -> (f64, f64) {
                #[target_feature(enable = $features)]
                fn sum(chunks: &[[f64; SUM_LANES]]) -> (f64, f64) {
                    type Registers = [arch::$register; SUM_LANES / $width];
                    let mut sums: Registers = [arch::$zero(); SUM_LANES / $width];
                    let mut lost = sums;
                    for chunk in chunks {
                        for i in 0..sums.len() {
                            // SAFETY: the chunk has `$width` elements from i * `$width` on.
                            let x = unsafe { $load_f64(chunk.as_ptr().add(i * $width)) };
                            let sum = arch::$add(sums[i], x);
                            let added = arch::$sub(sum, sums[i]);
                            let old = arch::$sub(sums[i], arch::$sub(sum, added));
                            lost[i] = arch::$add(lost[i], arch::$add(old, arch::$sub(x, added)));
                            sums[i] = sum;
                        }
                    }
                    // SAFETY: as many registers as it takes for `SUM_LANES` numbers.
                    let [sums, lost] = [sums, lost].map(|x| unsafe {
                        std::mem::transmute::<Registers, [f64; SUM_LANES]>(x)
                    });
                    super::add_lanes_exactly(sums, lost)
                }
                // SAFETY: code that names this level runs in its shell only, where the features are there.
                unsafe { sum(chunks) }
            }
        };
        (@plain $features:literal, $width:literal, $zero:ident, $add:ident, $last:ident, $t:ty, $load:expr, $chunks:ident) => {{
            #[target_feature(enable = $features)]
            fn sum(chunks: &[[$t; SUM_LANES]]) -> f64 {
                let mut sums = [arch::$zero(); SUM_LANES / $width];
                for chunk in chunks {
                    for (i, sum) in sums.iter_mut().enumerate() {
                        // SAFETY: the chunk has `$width` elements from i * `$width` on.
                        let x = unsafe { $load(chunk.as_ptr().add(i * $width)) };
                        *sum = arch::$add(*sum, x);
                    }
                }
                sums!(@lanes $add, $last, sums)
            }
            // SAFETY: code that names this level runs in its shell only, where the features are there.
            unsafe { sum($chunks) }
        }};
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

    level!(Sse42, "[`super::Level::Sse42`].", sse42, "sse4.2,popcnt", {
        const FMA: bool = false;
    });

    level!(Avx2, "[`super::Level::Avx2`].", avx2, "avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt", {
        sums!(
            "avx2",
            4,
            __m256d,
            _mm256_setzero_pd,
            _mm256_add_pd,
            _mm256_sub_pd,
            last_avx2,
            |p| arch::_mm256_cvtps_pd(arch::_mm_loadu_ps(p)),
            |p| arch::_mm256_loadu_pd(p)
        );
    });

    level!(
        Avx512,
        "[`super::Level::Avx512`].",
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
                |p| arch::_mm512_cvtps_pd(arch::_mm256_loadu_ps(p)),
                |p| arch::_mm512_loadu_pd(p)
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
        // SAFETY: both types are 16 numbers in a row.
        let [a, b, c, d] =
            unsafe { std::mem::transmute::<[[f32; 4]; 4], [arch::__m128; 4]>(block) };
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
        // SAFETY: as above.
        unsafe { std::mem::transmute::<[arch::__m128; 4], [[f32; 4]; 4]>(columns) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    std::array::from_fn(|i| std::array::from_fn(|j| block[j][i]))
}

/// Element (i, j) to (j, i).
#[inline(always)]
pub(crate) fn transpose_f64(block: [[f64; 4]; 4]) -> [[f64; 4]; 4] {
    std::array::from_fn(|i| std::array::from_fn(|j| block[j][i]))
}

/// Runs `kernel` compiled for `level`, which must be available (as [`level`] ensures).
pub fn dispatch<K: Kernel>(level: Level, kernel: K) -> K::Output {
    debug_assert!(level.available());
    match level {
        #[cfg(all(target_arch = "x86_64", not(rustloss_two_levels)))]
        // SAFETY: a `Level` other than the baseline comes from `level()`, which only gives levels that this CPU has.
        Level::Sse42 => unsafe { x86::sse42(kernel) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Level::Avx2 => unsafe { x86::avx2(kernel) },
        #[cfg(all(target_arch = "x86_64", not(rustloss_two_levels)))]
        // SAFETY: as above.
        Level::Avx512 => unsafe { x86::avx512(kernel) },
        _ => kernel.run::<Baseline>(),
    }
}
