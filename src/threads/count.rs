//! How many threads there are to be.

use super::published::Published;
use std::cell::Cell;
use std::num::{IntErrorKind, NonZero};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

thread_local! {
    /// The thread count that [`with_num_threads`] sets; 0 if none.
    static LOCAL_THREADS: Cell<usize> = const { Cell::new(0) };
}

/// The thread count that [`set_num_threads`] sets; 0 if none.
static PROCESS_THREADS: AtomicUsize = AtomicUsize::new(0);

/// How many threads, the caller's among them, a call from this thread may use: what [`with_num_threads`] says, else
/// [`set_num_threads`], else the environment, else as many as there are available CPUs.
pub fn num_threads() -> usize {
    let chosen = [LOCAL_THREADS.get(), PROCESS_THREADS.load(Ordering::Relaxed)];
    chosen.into_iter().find(|&n| n > 0).unwrap_or_else(|| Environment::get().threads)
}

/// How many of `all` equal pieces of work make a part, so that every thread has one: a multiple of `unit` from `least` to
/// `most`.
pub(crate) fn part(all: usize, unit: usize, least: usize, most: usize) -> usize {
    all.div_ceil(num_threads()).next_multiple_of(unit).clamp(least, most)
}

/// The largest thread count: 4 for each available CPU, and at least 64.
pub fn max_num_threads() -> usize {
    Environment::get().most
}

/// Sets the thread count of the whole process. It may exceed the number of CPUs; a count above [`max_num_threads`]
/// stands for that.
pub fn set_num_threads(n: NonZero<usize>) {
    PROCESS_THREADS.store(n.get().min(max_num_threads()), Ordering::Relaxed);
}

/// Runs `f` with a thread count that holds for calls from this thread only, at most [`max_num_threads`].
pub fn with_num_threads<R>(n: NonZero<usize>, f: impl FnOnce() -> R) -> R {
    struct RestoreCount(usize);
    impl Drop for RestoreCount {
        fn drop(&mut self) {
            exchange_local_threads(self.0);
        }
    }
    let _restore = RestoreCount(exchange_local_threads(n.get().min(max_num_threads())));
    f()
}

/// Replaces this thread's own thread count, 0 for none, and returns the one before.
pub(crate) fn exchange_local_threads(n: usize) -> usize {
    LOCAL_THREADS.replace(n)
}

/// One message for each environment variable whose value was skipped or reduced. Reads the environment if nothing did
/// before.
pub fn environment_warnings() -> &'static [String] {
    &Environment::get().warnings
}

/// What the environment says about threads, read at first use.
struct Environment {
    threads: usize,
    /// The largest count that can be chosen.
    most: usize,
    warnings: Vec<String>,
}

impl Environment {
    /// The variables that are looked at, the first with a usable value decides.
    const VARIABLES: [&str; 3] = ["RUSTLOSS_NUM_THREADS", "RAYON_NUM_THREADS", "OMP_NUM_THREADS"];

    fn get() -> &'static Self {
        static ENVIRONMENT: Published<Environment> = Published::nothing();
        ENVIRONMENT.get().unwrap_or_else(|| {
            let values = Self::VARIABLES
                .map(|name| Some(std::env::var_os(name)?.to_string_lossy().into_owned()));
            let cpus = thread::available_parallelism().map_or(1, NonZero::get);
            ENVIRONMENT.replace(None, Self::parse(&values, cpus))
        })
    }

    #[expect(clippy::disallowed_methods, reason = "one for each variable")]
    fn parse(values: &[Option<String>; 3], cpus: usize) -> Self {
        let most = (4 * cpus).max(64);
        let mut warnings = Vec::new();
        for (name, value) in Self::VARIABLES.iter().zip(values) {
            let Some(value) = value else { continue };
            // OpenMP's variable may list one count for each level of nesting.
            let count = match *name {
                "OMP_NUM_THREADS" => value.split_once(',').map_or(&**value, |(first, _)| first),
                _ => value,
            };
            let threads = match count.trim().parse::<NonZero<usize>>() {
                Ok(n) => n.get(),
                Err(error) if *error.kind() == IntErrorKind::PosOverflow => usize::MAX,
                Err(_) => {
                    warnings.push(format!(
                        "{name}: expected a positive integer, got {value:?}; it is ignored"
                    ));
                    continue;
                }
            };
            if threads > most {
                warnings.push(format!("{name}: {value:?} is more than {most}, which is used"));
            }
            return Self { threads: threads.min(most), most, warnings };
        }
        Self { threads: cpus, most, warnings }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(values: [Option<&str>; 3], cpus: usize) -> (usize, Vec<String>) {
        let environment = Environment::parse(&values.map(|value| value.map(str::to_owned)), cpus);
        (environment.threads, environment.warnings)
    }

    #[test]
    fn first_usable_variable_decides() {
        let parse = |values| {
            let (threads, warnings) = parse(values, 12);
            (threads, warnings.len())
        };
        assert_eq!(parse([None, None, None]), (12, 0));
        assert_eq!(parse([Some("3"), Some("4"), Some("5")]), (3, 0));
        assert_eq!(parse([None, Some(" 4 "), Some("x")]), (4, 0));
        assert_eq!(parse([None, None, Some("5,2")]), (5, 0));
        assert_eq!(parse([Some("0"), Some("-1"), Some("6")]), (6, 2));
        assert_eq!(parse([Some("4,2"), Some(""), Some("two,2")]), (12, 3));
    }

    #[test]
    fn counts_are_capped() {
        let huge = "1".repeat(30);
        for (cpus, most) in [(1, 64), (16, 64), (17, 68), (256, 1024)] {
            for value in [most.to_string(), (most - 1).to_string()] {
                let expected = value.parse().unwrap();
                assert_eq!(parse([Some(&value), None, None], cpus), (expected, vec![]));
            }
            for value in [(most + 1).to_string(), huge.clone()] {
                let (threads, warnings) = parse([None, Some(&value), Some("3")], cpus);
                assert_eq!(threads, most);
                let text =
                    format!("RAYON_NUM_THREADS: \"{value}\" is more than {most}, which is used");
                assert_eq!(warnings, [text]);
            }
        }
    }

    #[test]
    fn warning_names_variable_and_value() {
        let (_, warnings) = parse([None, None, Some("2.5")], 1);
        let [warning] = &warnings[..] else { panic!("one warning, not {warnings:?}") };
        assert!(warning.contains("OMP_NUM_THREADS") && warning.contains("\"2.5\""), "{warning}");
    }
}
