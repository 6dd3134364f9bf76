//! How many threads there are to be.

use super::pool::Published;
use std::cell::Cell;
use std::num::NonZero;
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

/// Sets the thread count of the whole process; it may exceed the number of CPUs.
pub fn set_num_threads(n: NonZero<usize>) {
    PROCESS_THREADS.store(n.get(), Ordering::Relaxed);
}

/// Runs `f` with a thread count that holds for calls from this thread only.
pub fn with_num_threads<R>(n: NonZero<usize>, f: impl FnOnce() -> R) -> R {
    struct Restore(usize);
    impl Drop for Restore {
        fn drop(&mut self) {
            exchange_local_threads(self.0);
        }
    }
    let _restore = Restore(exchange_local_threads(n.get()));
    f()
}

/// Replaces this thread's own thread count, 0 for none, and returns the one before.
pub(crate) fn exchange_local_threads(n: usize) -> usize {
    LOCAL_THREADS.replace(n)
}

/// One message for each environment variable whose value was skipped. Reads the environment if nothing did before.
pub fn environment_warnings() -> &'static [String] {
    &Environment::get().warnings
}

/// What the environment says about threads, read at first use.
struct Environment {
    threads: usize,
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
            ENVIRONMENT.replace(None, Self::parse(&values))
        })
    }

    fn parse(values: &[Option<String>; 3]) -> Self {
        let mut warnings = Vec::new();
        for (name, value) in Self::VARIABLES.iter().zip(values) {
            let Some(value) = value else { continue };
            // OpenMP's variable may list one count for each level of nesting.
            let count = match *name {
                "OMP_NUM_THREADS" => value.split_once(',').map_or(&**value, |(first, _)| first),
                _ => value,
            };
            match count.trim().parse::<NonZero<usize>>() {
                Ok(n) => {
                    return Self { threads: n.get(), warnings };
                }
                Err(_) => warnings.push(format!(
                    "{name}: expected a positive integer, got {value:?}; it is ignored"
                )),
            }
        }
        Self { threads: thread::available_parallelism().map_or(1, NonZero::get), warnings }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(values: [Option<&str>; 3]) -> (usize, usize) {
        let environment = Environment::parse(&values.map(|value| value.map(str::to_owned)));
        (environment.threads, environment.warnings.len())
    }

    #[test]
    fn first_usable_variable_decides() {
        let cpus = thread::available_parallelism().unwrap().get();
        assert_eq!(parse([None, None, None]), (cpus, 0));
        assert_eq!(parse([Some("3"), Some("4"), Some("5")]), (3, 0));
        assert_eq!(parse([None, Some(" 4 "), Some("x")]), (4, 0));
        assert_eq!(parse([None, None, Some("5,2")]), (5, 0));
        assert_eq!(parse([Some("0"), Some("-1"), Some("6")]), (6, 2));
        assert_eq!(parse([Some("4,2"), Some(""), Some("two,2")]), (cpus, 3));
    }

    #[test]
    fn warning_names_variable_and_value() {
        let environment = Environment::parse(&[None, None, Some("2.5".to_owned())]);
        let [warning] = &environment.warnings[..] else {
            panic!("one warning, not {:?}", environment.warnings)
        };
        assert!(warning.contains("OMP_NUM_THREADS") && warning.contains("\"2.5\""), "{warning}");
    }
}
