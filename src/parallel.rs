//! Threads: the one place that runs work in parallel.
//!
//! [`run`] splits work into tasks that its caller numbers; nothing about a task depends on who runs it or on how
//! many threads there are, so that results, kept in slots by index, have the same bits for any thread count.
//!
//! The pool is private, made at the first parallel call and kept for one process only. A forked child inherits the
//! memory of its parent's pool but none of its threads: waiting for them would hang. A handler run by `fork`
//! therefore raises a generation number, and the child builds a pool of its own and leaks the inherited one, whose
//! locks a thread that no longer exists may be holding.

use rayon::{ThreadPool, ThreadPoolBuilder};
use std::any::Any;
use std::cell::Cell;
use std::num::NonZero;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, Thread};
use std::{hint, mem, ptr};

/// Runs `work(0)`, …, `work(tasks - 1)`, each exactly once, and returns when all are done.
///
/// The caller takes part, and as many idle workers of the pool as are of use and as [`num_threads`] allows; each
/// takes the lowest task not yet taken. Everything runs on the caller, in order, if `parallel` is false or there is
/// nothing to share: one task, one thread, no idle worker, or a call from inside a task.
///
/// # Panics
/// If a task panics: with the payload of the first one, once nobody is inside a task any more. Tasks not yet taken
/// at that moment never run.
pub fn run(tasks: usize, parallel: bool, work: &(dyn Fn(usize) + Sync)) {
    if parallel
        && tasks > 1
        && !INSIDE_TASK.get()
        && let Some((pool, crew)) = hire(tasks.min(num_threads()) - 1)
    {
        share(&pool, crew, tasks, work);
    } else {
        (0..tasks).for_each(work);
    }
}

thread_local! {
    static INSIDE_TASK: Cell<bool> = const { Cell::new(false) };
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

/// A value shared by all threads that is replaced, never changed or freed: readers need no lock, so that `fork` can
/// not catch one locked.
struct Published<T: 'static>(AtomicPtr<T>);

impl<T: Send + Sync> Published<T> {
    const fn nothing() -> Self {
        Self(AtomicPtr::new(ptr::null_mut()))
    }

    fn get(&self) -> Option<&'static T> {
        // SAFETY: the pointer is null or comes from the `Box::leak` below, released by the exchange that stored it.
        unsafe { self.0.load(Ordering::Acquire).as_ref() }
    }

    /// Publishes `new` in place of `old`, unless another thread was faster. Returns what is published now.
    fn replace(&self, old: Option<&'static T>, new: T) -> &'static T {
        let old = old.map_or(ptr::null_mut(), |old| ptr::from_ref(old).cast_mut());
        let new = Box::leak(Box::new(new));
        match self.0.compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => new,
            Err(_) => self.get().expect("what was published once is never withdrawn"),
        }
    }
}

/// How many forks lie between the process that first used the pool and this one, or a larger number.
static GENERATION: AtomicUsize = AtomicUsize::new(0);

/// Has `fork` count generations from now on. False if that is impossible.
#[cfg(unix)]
fn watch_forks() -> bool {
    use std::sync::atomic::AtomicBool;
    static WATCHED: AtomicBool = AtomicBool::new(false);
    extern "C" fn child() {
        GENERATION.fetch_add(1, Ordering::Relaxed);
    }
    // Two threads may both register the handler: numbers may be skipped, but no pool precedes its registration.
    if !WATCHED.load(Ordering::Acquire) {
        // SAFETY: the handler does one atomic addition, which is allowed in the child of a threaded process, and
        // lives as long as the library.
        let error = unsafe { libc::pthread_atfork(None, None, Some(child)) };
        WATCHED.store(error == 0, Ordering::Release);
    }
    WATCHED.load(Ordering::Acquire)
}

#[cfg(not(unix))]
fn watch_forks() -> bool {
    true
}

/// The pool of one process. Its lock guards the choice of a pool, never the work.
struct Process {
    generation: usize,
    pool: Mutex<Choice>,
}

#[derive(Default)]
struct Choice {
    pool: Option<Arc<Pool>>,
    /// The largest number of workers that was ever asked of the system.
    asked: usize,
}

struct Pool {
    workers: ThreadPool,
    size: usize,
    idle: AtomicUsize,
}

impl Process {
    fn current() -> &'static Self {
        static PROCESS: Published<Process> = Published::nothing();
        let generation = GENERATION.load(Ordering::Relaxed);
        let inherited = PROCESS.get();
        match inherited {
            Some(process) if process.generation == generation => process,
            _ => PROCESS.replace(inherited, Self { generation, pool: Mutex::default() }),
        }
    }

    /// A pool of at least `wanted` workers if the system grants them, else a smaller one, if any.
    fn pool(&self, wanted: usize) -> Option<Arc<Pool>> {
        let mut choice = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        // What was refused once is not asked for again, since every attempt would cost more than it gains.
        if wanted > choice.asked {
            // In powers of two, so that a slowly growing number does not make a pool each time.
            choice.asked = wanted.next_power_of_two().min(num_threads() - 1).max(wanted);
            // The smaller pool ends with the last call that uses it.
            let grown = Pool::new(choice.asked);
            choice.pool = grown
                .map(Arc::new)
                .into_iter()
                .chain(choice.pool.take())
                .max_by_key(|pool| pool.size);
        }
        choice.pool.clone()
    }
}

impl Pool {
    /// A pool of `size` workers, or of as many as the system grants.
    fn new(mut size: usize) -> Option<Self> {
        while size > 0 {
            let builder =
                ThreadPoolBuilder::new().num_threads(size).thread_name(|i| format!("rustloss-{i}"));
            if let Ok(workers) = builder.build() {
                return Some(Self { workers, size, idle: AtomicUsize::new(size) });
            }
            size /= 2;
        }
        None
    }
}

/// Takes at most `wanted` workers of the pool out of its idle ones, for one call to [`share`].
fn hire(wanted: usize) -> Option<(Arc<Pool>, usize)> {
    if wanted == 0 || !watch_forks() {
        return None;
    }
    let pool = Process::current().pool(wanted)?;
    let mut crew = 0;
    let take = |idle: usize| {
        crew = wanted.min(idle);
        Some(idle - crew)
    };
    pool.idle.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).ok();
    (crew > 0).then_some((pool, crew))
}

/// Runs all tasks on the caller and on `crew` workers hired from `pool`.
fn share(pool: &Pool, crew: usize, tasks: usize, work: &(dyn Fn(usize) + Sync)) {
    // SAFETY: only the lifetime changes. `work` is called by those alone who are inside the job; dropping its
    // `Entrance`, before this function returns or unwinds, lets no one in any more and waits until all are out.
    let work =
        unsafe { mem::transmute::<&(dyn Fn(usize) + Sync), &'static (dyn Fn(usize) + Sync)>(work) };
    let job = Arc::new(Job {
        work,
        tasks,
        next: AtomicUsize::new(0),
        inside: AtomicUsize::new(0),
        panic: Mutex::new(None),
        caller: thread::current(),
    });
    let entrance = Entrance(&job);
    for _ in 0..crew {
        // Waking a worker takes microseconds: those awake may be through before the last one is called.
        if job.next.load(Ordering::Relaxed) >= tasks {
            break;
        }
        let job = Arc::clone(&job);
        pool.workers.spawn(move || job.help());
    }
    job.take_part();
    drop(entrance);
    // Whoever is still on the way here is idle, too.
    pool.idle.fetch_add(crew, Ordering::Relaxed);
    let panic = job.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(payload) = panic {
        panic::resume_unwind(payload);
    }
}

/// One call to [`run`], as its workers see it. A worker that wakes up too late finds it closed and goes: the caller
/// waits for those at work only. Waiting for all, as a rayon scope does, costs a wake-up where the tasks are short
/// and, where the CPUs are busy, milliseconds.
struct Job {
    work: &'static (dyn Fn(usize) + Sync),
    tasks: usize,
    /// The lowest task not yet taken.
    next: AtomicUsize,
    /// The number of workers inside, plus `CLOSED` once no more may enter.
    inside: AtomicUsize,
    /// The payload of the first panic.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    caller: Thread,
}

impl Job {
    const CLOSED: usize = 1 << (usize::BITS - 1);
    /// How often the caller looks before it sleeps: about as long as falling asleep and waking up would take.
    const LOOKS: usize = 200;

    /// A worker's part.
    fn help(&self) {
        let enter = |inside: usize| (inside < Self::CLOSED).then_some(inside + 1);
        if self.inside.fetch_update(Ordering::Acquire, Ordering::Relaxed, enter).is_ok() {
            self.take_part();
            if self.inside.fetch_sub(1, Ordering::Release) == Self::CLOSED + 1 {
                self.caller.unpark();
            }
        }
    }

    /// Takes tasks until none is left. A panic ends that for all.
    fn take_part(&self) {
        INSIDE_TASK.set(true);
        let tasks = || {
            loop {
                let task = self.next.fetch_add(1, Ordering::Relaxed);
                if task >= self.tasks {
                    break;
                }
                (self.work)(task);
            }
        };
        let outcome = panic::catch_unwind(AssertUnwindSafe(tasks));
        INSIDE_TASK.set(false);
        if let Err(payload) = outcome {
            self.next.store(self.tasks, Ordering::Relaxed);
            self.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(payload);
        }
    }
}

/// The caller's hold on a job; dropping it closes the job.
struct Entrance<'a>(&'a Job);

impl Drop for Entrance<'_> {
    fn drop(&mut self) {
        let mut inside = self.0.inside.fetch_or(Job::CLOSED, Ordering::Acquire);
        let mut looks = 0;
        while inside & !Job::CLOSED > 0 {
            if looks < Job::LOOKS {
                looks += 1;
                hint::spin_loop();
            } else {
                thread::park();
            }
            inside = self.0.inside.load(Ordering::Acquire);
        }
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

    #[test]
    fn publishing_keeps_the_first_of_two_rivals() {
        let cell = Published::nothing();
        assert!(cell.get().is_none());
        let first = cell.replace(None, 1);
        assert_eq!(*cell.replace(None, 2), 1);
        assert_eq!(*cell.replace(Some(first), 3), 3);
        assert_eq!(cell.get(), Some(&3));
    }

    #[test]
    fn workers_go_back_to_the_pool() {
        let pool = Pool::new(2).unwrap();
        for panics in [false, true, false] {
            pool.idle.fetch_sub(2, Ordering::Relaxed);
            let work = |task: usize| assert!(task < 2 || !panics);
            let outcome = panic::catch_unwind(AssertUnwindSafe(|| share(&pool, 2, 3, &work)));
            assert_eq!(outcome.is_err(), panics);
            assert_eq!(pool.idle.load(Ordering::Relaxed), 2);
        }
    }

    #[test]
    fn pool_grows_and_never_shrinks() {
        let process = Process { generation: 0, pool: Mutex::default() };
        let size = |threads: usize, wanted: usize| {
            with_num_threads(NonZero::new(threads).unwrap(), || process.pool(wanted).unwrap().size)
        };
        assert_eq!(size(2, 1), 1);
        assert_eq!(size(8, 3), 4);
        assert_eq!(size(3, 2), 4);
        assert_eq!(size(8, 5), 7);
        assert_eq!(size(8, 7), 7);
    }
}
