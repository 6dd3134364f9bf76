//! The worker threads of a process, which are rayon's.

use super::published::Published;
use super::{Job, cpus, num_threads};
use rayon::{ThreadPool, ThreadPoolBuilder, Yield};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

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
            choice.pool = Pool::new(choice.asked).map(Arc::new).or(choice.pool.take());
        }
        choice.pool.clone()
    }
}

/// The worker threads. A call reserves some of the idle ones, posts a job to them and releases them.
pub(super) struct Pool {
    threads: ThreadPool,
    idle: AtomicUsize,
    /// How many CPUs there are beside the caller's.
    spare_cpus: usize,
    /// Whether workers may move to these.
    may_move: bool,
    /// When a job was last wanted, in nanoseconds since `made`.
    wanted: AtomicU64,
    made: Instant,
}

impl Pool {
    /// How long a worker that is out of work looks for more before it sleeps. To wake it takes 100 microseconds where the
    /// system is virtual, in which two threads compute 200,000 elements; and training calls again soon.
    const PATIENCE: Duration = Duration::from_micros(200);

    /// How long a caller that is out of work spins until the last tasks are done. A caller that sleeps may be woken on the
    /// CPU of the worker that wakes it, see [`cpus`].
    const CALLERS_PATIENCE: Duration = Duration::from_micros(100);

    /// A pool of `size` workers. None if the system refuses one.
    pub fn new(size: usize) -> Option<Self> {
        let builder = ThreadPoolBuilder::new().num_threads(size);
        Some(Self {
            threads: builder.thread_name(|i| format!("rustloss-{i}")).build().ok()?,
            idle: AtomicUsize::new(size),
            spare_cpus: thread::available_parallelism().map_or(0, |cpus| cpus.get() - 1),
            may_move: cpus::may_move(),
            wanted: AtomicU64::new(0),
            made: Instant::now(),
        })
    }

    /// The pool of this process, and how many of its idle workers, at most `wanted`, are reserved for the caller. None if
    /// there is none, or if one would have to be woken for a small job.
    pub fn reserve(wanted: usize, small: bool) -> Option<(Arc<Self>, usize)> {
        if wanted == 0 || !watch_forks() {
            return None;
        }
        let pool = Process::current().pool(wanted)?;
        // Workers are awake, or will be for the next job, where jobs come quickly.
        if !pool.is_wanted_again() && small {
            return None;
        }
        let mut workers = 0;
        let take = |idle: usize| {
            workers = wanted.min(idle);
            Some(idle - workers)
        };
        pool.idle.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).ok();
        (workers > 0).then_some((pool, workers))
    }

    /// How long a caller spins: not at all where its workers need its CPU.
    pub fn patience(&self) -> Duration {
        if self.spare_cpus > 0 { Self::CALLERS_PATIENCE } else { Duration::ZERO }
    }

    pub fn release(&self, workers: usize) {
        self.idle.fetch_add(workers, Ordering::Relaxed);
    }

    /// Whether a job was wanted a short time ago.
    fn is_wanted_again(&self) -> bool {
        let now = self.made.elapsed();
        let before =
            Duration::from_nanos(self.wanted.swap(now.as_nanos() as u64, Ordering::Relaxed));
        now.saturating_sub(before) < Self::PATIENCE
    }

    /// Calls `workers` workers to a job. One that comes when it is over finds it closed.
    pub fn post(&self, job: &Arc<Job>, workers: usize) {
        let callers_cpu = cpus::current().filter(|_| self.may_move);
        for _ in 0..workers {
            // Waking a worker takes microseconds: the threads at work may be through before the last one is called.
            if job.is_given_out() {
                break;
            }
            let (job, spare_cpus) = (Arc::clone(job), self.spare_cpus);
            self.threads.spawn(move || {
                let has_cpu = rayon::current_thread_index().is_some_and(|i| i < spare_cpus);
                if let Some(cpu) = callers_cpu.filter(|_| has_cpu) {
                    cpus::leave(cpu);
                }
                job.help();
                drop(job);
                if has_cpu {
                    linger();
                }
            });
        }
    }
}

/// Keeps a worker that has a CPU of its own awake for jobs that come soon.
fn linger() {
    thread_local! {
        static LINGERS: Cell<bool> = const { Cell::new(false) };
    }
    // A job that is found here runs inside this very loop, and shall not begin another one.
    if LINGERS.replace(true) {
        return;
    }
    let mut since = Instant::now();
    while since.elapsed() < Pool::PATIENCE {
        match rayon::yield_now() {
            Some(Yield::Executed) => since = Instant::now(),
            // Whoever else wants this CPU shall have it.
            _ => thread::yield_now(),
        }
    }
    LINGERS.set(false);
}

#[cfg(test)]
mod tests {
    use super::super::with_num_threads;
    use super::*;
    use std::num::NonZero;

    #[test]
    fn pool_grows_and_never_shrinks() {
        let process = Process { generation: 0, pool: Mutex::default() };
        let size = |threads: usize, wanted: usize| {
            with_num_threads(NonZero::new(threads).unwrap(), || {
                process.pool(wanted).unwrap().threads.current_num_threads()
            })
        };
        assert_eq!(size(2, 1), 1);
        assert_eq!(size(8, 3), 4);
        assert_eq!(size(3, 2), 4);
        assert_eq!(size(8, 5), 7);
        assert_eq!(size(8, 7), 7);
    }
}
