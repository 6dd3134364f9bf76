//! Threads: the one place that runs work in parallel.
//!
//! [`run`] splits work into tasks that its caller numbers; nothing about a task depends on who runs it or on how
//! many threads there are, so that results, kept in slots by index, have the same bits for any thread count.
//!
//! The pool is private, made at the first parallel call and kept for one process only. A forked child inherits the
//! memory of its parent's pool but none of its threads: waiting for them would hang. A handler run by `fork`
//! therefore raises a generation number, and the child builds a pool of its own and leaks the inherited one, whose
//! locks a thread that no longer exists may be holding.

use std::any::Any;
use std::cell::Cell;
use std::collections::VecDeque;
use std::num::NonZero;
use std::ops::Range;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};
use std::{hint, iter, mem, ptr};

/// Work that pays to share with workers that are awake, and work that pays to wake one for, in nanoseconds.
const SHARED_NS: f64 = 4_096.0;
const WAKING_NS: f64 = 20_000.0;

/// What a thread takes at a time, in nanoseconds, unless its share is less: neighbouring tasks stay in the cache of one CPU.
const GRIP_NS: f64 = 8_192.0;

/// The tasks that fall to one thread: some at a time, while others take theirs.
pub struct Tasks<'a> {
    /// The lowest task not yet taken.
    next: &'a AtomicUsize,
    count: usize,
    grip: usize,
    taken: Range<usize>,
}

impl Iterator for Tasks<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        if self.taken.is_empty() {
            let start = self.next.fetch_add(self.grip, Ordering::Relaxed).min(self.count);
            self.taken = start..(start + self.grip).min(self.count);
        }
        self.taken.next()
    }
}

/// What a thread does with its tasks.
pub type Work<'a> = dyn Fn(Tasks<'_>) + Sync + 'a;

/// Calls `work` on as many threads as are of use, and returns when all tasks, 0 to `tasks` - 1, were given out once each
/// and every thread is done with its own. A task takes about `ns` nanoseconds.
///
/// The caller takes part, and as many idle workers of the pool as there are tasks for and as [`num_threads`] allows.
/// The caller gets all tasks, in order, if there is nothing to share: little work, one task, one thread, no idle
/// worker, or a call from inside `work`.
///
/// # Panics
/// If `work` panics: with the payload of the first one, once nobody is inside any more. Tasks not yet taken at that
/// moment never run.
pub fn run(tasks: usize, ns: f64, work: &Work<'_>) {
    let total = ns * tasks as f64;
    if total >= SHARED_NS
        && tasks > 1
        && !INSIDE_TASK.get()
        && let Some((pool, crew)) = hire(tasks.min(num_threads()) - 1, total < WAKING_NS)
    {
        let grip = ((GRIP_NS / ns) as usize).clamp(1, tasks.div_ceil(crew + 1));
        share(&pool, crew, (tasks, grip), work);
    } else {
        let next = AtomicUsize::new(tasks);
        work(Tasks { next: &next, count: tasks, grip: 1, taken: 0..tasks });
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

/// Threads that wait for jobs.
struct Pool {
    board: Arc<Board>,
    size: usize,
    idle: AtomicUsize,
}

/// Where jobs are posted.
struct Board {
    /// How many jobs there are, for those who look without a lock.
    posted: AtomicUsize,
    notes: Mutex<Notes>,
    changed: Condvar,
    /// When a job was last wanted, in nanoseconds since `made`.
    wanted: AtomicU64,
    made: Instant,
}

#[derive(Default)]
struct Notes {
    jobs: VecDeque<Arc<Job>>,
    asleep: usize,
    ended: bool,
    seats: Seats,
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
    fn new(size: usize) -> Option<Self> {
        let board = Arc::new(Board::new());
        // The caller has a CPU, too.
        let spare = thread::available_parallelism().map_or(0, |cpus| cpus.get() - 1);
        let start = |&i: &usize| {
            let board = Arc::clone(&board);
            let thread = thread::Builder::new().name(format!("rustloss-{i}"));
            thread.spawn(move || board.work(i < spare)).is_ok()
        };
        let size = (0..size).take_while(start).count();
        (size > 0).then(|| Self { board, size, idle: AtomicUsize::new(size) })
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.board.notes().ended = true;
        self.board.changed.notify_all();
    }
}

impl Board {
    /// How long a worker that is out of work looks for more before it sleeps. To wake it takes up to a millisecond where the
    /// system is virtual, several times what a million elements need; and training calls again soon.
    const PATIENCE: Duration = Duration::from_micros(200);

    fn new() -> Self {
        Board {
            posted: AtomicUsize::new(0),
            notes: Mutex::default(),
            changed: Condvar::new(),
            wanted: AtomicU64::new(0),
            made: Instant::now(),
        }
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a worker does all its life; one that has a CPU of its own stays awake between jobs that come quickly.
    fn work(&self, patient: bool) {
        self.notes().seats.enter();
        while let Some(job) = self.take() {
            job.help();
            if patient {
                let start = Instant::now();
                while self.posted.load(Ordering::Relaxed) == 0 && start.elapsed() < Self::PATIENCE {
                    // Whoever else wants this CPU shall have it.
                    thread::yield_now();
                }
            }
        }
    }

    /// Waits for a job. None if there will be no more.
    fn take(&self) -> Option<Arc<Job>> {
        let mut notes = self.notes();
        loop {
            if let Some(job) = notes.jobs.pop_front() {
                self.posted.store(notes.jobs.len(), Ordering::Relaxed);
                return Some(job);
            }
            if notes.ended {
                return None;
            }
            notes.asleep += 1;
            notes = self.changed.wait(notes).unwrap_or_else(PoisonError::into_inner);
            notes.asleep -= 1;
        }
    }

    /// Whether it pays to post a small job: somebody is awake, or will be for the next one, as they come quickly.
    fn is_watched(&self) -> bool {
        let now = self.made.elapsed();
        let before =
            Duration::from_nanos(self.wanted.swap(now.as_nanos() as u64, Ordering::Relaxed));
        now.saturating_sub(before) < Self::PATIENCE
    }

    /// Calls `crew` workers to a job.
    fn post(&self, job: &Arc<Job>, crew: usize) {
        let mut notes = self.notes();
        notes.jobs.extend(iter::repeat_n(job, crew).cloned());
        self.posted.store(notes.jobs.len(), Ordering::Relaxed);
        let sleepers = notes.asleep.min(crew);
        notes.seats.keep_off_the_caller();
        drop(notes);
        for _ in 0..sleepers {
            // Waking a worker takes microseconds: those awake may be through before the last one is called.
            if job.next.load(Ordering::Relaxed) >= job.tasks {
                break;
            }
            self.changed.notify_one();
        }
    }
}

/// The CPUs that workers may run on: all but the caller's. A system that is a guest of another one may take a CPU at rest
/// for one that is taken from it, and then queues the worker behind the caller, for as long as the call lasts.
#[cfg(target_os = "linux")]
#[derive(Default)]
struct Seats {
    workers: Vec<libc::pid_t>,
    /// The CPUs of the thread that made the first worker.
    all: Option<libc::cpu_set_t>,
    caller: Option<usize>,
}

#[cfg(target_os = "linux")]
impl Seats {
    /// Makes the calling thread known as a worker.
    fn enter(&mut self) {
        // SAFETY: all bits 0 is an empty set, and the call writes no more than a set.
        unsafe {
            self.workers.push(libc::gettid());
            if self.all.is_none() {
                let mut all = mem::zeroed();
                let error = libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut all);
                self.all = (error == 0).then_some(all);
            }
        }
        self.caller = None;
    }

    fn keep_off_the_caller(&mut self) {
        // SAFETY: has no conditions.
        let caller = usize::try_from(unsafe { libc::sched_getcpu() }).ok();
        let (Some(cpu), Some(mut others), true) = (caller, self.all, caller != self.caller) else {
            return;
        };
        self.caller = caller;
        // SAFETY: the number is that of a CPU, and the set is one. A worker that is no more is an error, which is ignored.
        unsafe {
            libc::CPU_CLR(cpu, &mut others);
            if libc::CPU_COUNT(&others) > 0 {
                for &worker in &self.workers {
                    libc::sched_setaffinity(
                        worker,
                        size_of::<libc::cpu_set_t>(),
                        &raw const others,
                    );
                }
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
#[derive(Default)]
struct Seats;

#[cfg(not(target_os = "linux"))]
impl Seats {
    fn enter(&mut self) {}

    fn keep_off_the_caller(&mut self) {}
}

/// Takes at most `wanted` workers of the pool out of its idle ones, for one call to [`share`]. None for a small job that
/// somebody would have to wake up for.
fn hire(wanted: usize, small: bool) -> Option<(Arc<Pool>, usize)> {
    if wanted == 0 || !watch_forks() {
        return None;
    }
    let pool = Process::current().pool(wanted)?;
    if !pool.board.is_watched() && small {
        return None;
    }
    let mut crew = 0;
    let take = |idle: usize| {
        crew = wanted.min(idle);
        Some(idle - crew)
    };
    pool.idle.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).ok();
    (crew > 0).then_some((pool, crew))
}

/// Runs all tasks on the caller and on `crew` workers hired from `pool`.
fn share(pool: &Pool, crew: usize, (tasks, grip): (usize, usize), work: &Work<'_>) {
    // SAFETY: only the lifetime changes. `work` is called by those alone who are inside the job; dropping its
    // `Entrance`, before this function returns or unwinds, lets no one in any more and waits until all are out.
    let work = unsafe { mem::transmute::<&Work<'_>, &'static Work<'static>>(work) };
    let job = Arc::new(Job {
        work,
        tasks,
        grip,
        // The first tasks are the caller's, in every call, and so their arrays stay in its CPU's cache.
        next: AtomicUsize::new(grip),
        inside: AtomicUsize::new(0),
        panic: Mutex::new(None),
        caller: thread::current(),
    });
    let entrance = Entrance(&job);
    pool.board.post(&job, crew);
    job.take_part(0..grip);
    drop(entrance);
    // Whoever is still on the way here is idle, too.
    pool.idle.fetch_add(crew, Ordering::Relaxed);
    let panic = job.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(payload) = panic {
        panic::resume_unwind(payload);
    }
}

/// One call to [`run`], as its workers see it. A worker that wakes up too late finds it closed and goes: the caller
/// waits for those at work only. Waiting for all, as a scope of threads does, costs a wake-up where the tasks are short
/// and, where the CPUs are busy, milliseconds.
struct Job {
    work: &'static Work<'static>,
    tasks: usize,
    grip: usize,
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
            self.take_part(0..0);
            if self.inside.fetch_sub(1, Ordering::Release) == Self::CLOSED + 1 {
                self.caller.unpark();
            }
        }
    }

    /// Does the tasks that are `taken` already, and takes more until none is left. A panic ends that for all.
    fn take_part(&self, taken: Range<usize>) {
        INSIDE_TASK.set(true);
        let tasks = Tasks { next: &self.next, count: self.tasks, grip: self.grip, taken };
        let outcome = panic::catch_unwind(AssertUnwindSafe(|| (self.work)(tasks)));
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
            let work = |tasks: Tasks<'_>| tasks.for_each(|task| assert!(task < 2 || !panics));
            let outcome = panic::catch_unwind(AssertUnwindSafe(|| share(&pool, 2, (3, 1), &work)));
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
