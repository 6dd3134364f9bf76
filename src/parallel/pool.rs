//! The workers of a process: how they are made, where they wait, and where they may run.

use super::{Job, num_threads};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use std::{iter, ptr};

/// A value shared by all threads that is replaced, never changed or freed: readers need no lock, so that `fork` can
/// not catch one locked.
pub(super) struct Published<T: 'static>(AtomicPtr<T>);

impl<T: Send + Sync> Published<T> {
    pub const fn nothing() -> Self {
        Self(AtomicPtr::new(ptr::null_mut()))
    }

    pub fn get(&self) -> Option<&'static T> {
        // SAFETY: the pointer is null or comes from the `Box::leak` below, released by the exchange that stored it.
        unsafe { self.0.load(Ordering::Acquire).as_ref() }
    }

    /// Publishes `new` in place of `old`, unless another thread was faster. Returns what is published now.
    pub fn replace(&self, old: Option<&'static T>, new: T) -> &'static T {
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
pub(super) fn watch_forks() -> bool {
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
pub(super) fn watch_forks() -> bool {
    true
}

/// The pool of one process. Its lock guards the choice of a pool, never the work.
pub(super) struct Process {
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
pub(super) struct Pool {
    pub board: Arc<Board>,
    size: usize,
    pub idle: AtomicUsize,
}

/// Where jobs are posted.
pub(super) struct Board {
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
    pub fn current() -> &'static Self {
        static PROCESS: Published<Process> = Published::nothing();
        let generation = GENERATION.load(Ordering::Relaxed);
        let inherited = PROCESS.get();
        match inherited {
            Some(process) if process.generation == generation => process,
            _ => PROCESS.replace(inherited, Self { generation, pool: Mutex::default() }),
        }
    }

    /// A pool of at least `wanted` workers if the system grants them, else a smaller one, if any.
    pub fn pool(&self, wanted: usize) -> Option<Arc<Pool>> {
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
    pub fn new(size: usize) -> Option<Self> {
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
    pub fn is_watched(&self) -> bool {
        let now = self.made.elapsed();
        let before =
            Duration::from_nanos(self.wanted.swap(now.as_nanos() as u64, Ordering::Relaxed));
        now.saturating_sub(before) < Self::PATIENCE
    }

    /// Calls `crew` workers to a job.
    pub fn post(&self, job: &Arc<Job>, crew: usize) {
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

    /// Takes back the calls to a job that is over.
    pub fn withdraw(&self, job: &Arc<Job>) {
        if self.posted.load(Ordering::Relaxed) > 0 {
            let mut notes = self.notes();
            notes.jobs.retain(|other| !Arc::ptr_eq(other, job));
            self.posted.store(notes.jobs.len(), Ordering::Relaxed);
        }
    }
}

/// The CPUs that workers may run on: all but the caller's. A system that is a guest of another one may take a CPU at rest
/// for one that is taken from it, and then queues the worker behind the caller, for as long as the call lasts.
#[cfg(target_os = "linux")]
#[derive(Default)]
struct Seats {
    /// All workers; none ends before the pool is dropped, which nobody posts to then.
    workers: Vec<libc::pid_t>,
    caller: Option<usize>,
}

#[cfg(target_os = "linux")]
impl Seats {
    /// Makes the calling thread known as a worker.
    fn enter(&mut self) {
        // SAFETY: has no conditions.
        self.workers.push(unsafe { libc::gettid() });
        self.caller = None;
    }

    /// Gives workers the CPUs that the calling thread may run on but does not.
    fn keep_off_the_caller(&mut self) {
        const SIZE: usize = size_of::<libc::cpu_set_t>();
        // SAFETY: has no conditions.
        let caller = usize::try_from(unsafe { libc::sched_getcpu() }).ok();
        let Some(cpu) = caller.filter(|_| caller != self.caller) else { return };
        self.caller = caller;
        // SAFETY: all bits 0 is an empty set, no call writes more than a set, and the number is that of a CPU.
        unsafe {
            let mut others = std::mem::zeroed();
            let error = libc::sched_getaffinity(0, SIZE, &raw mut others);
            libc::CPU_CLR(cpu, &mut others);
            if error == 0 && libc::CPU_COUNT(&others) > 0 {
                for &worker in &self.workers {
                    libc::sched_setaffinity(worker, SIZE, &raw const others);
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

#[cfg(test)]
mod tests {
    use super::super::with_num_threads;
    use super::*;
    use std::num::NonZero;

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
